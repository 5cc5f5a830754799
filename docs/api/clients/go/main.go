// An application that signs over gRPC: makes a key, has its birth proved before it is used, signs a digest,
// has the signature verified. With -key-id it signs with a key that exists. What matters for an application
// of yours is `call`: when to send a request again, when not to, and how long to wait.
//
// The package signerv1 is generated: hack/api/generate.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"sigil.dev/clients/signerv1"
)

const backoffMax = 2 * time.Second

// call sends a request until the answer is final or ctx ends. Safe for Sign, which is deterministic, and for
// Create with an idempotency key: the same request has the same outcome, however often it arrives.
func call[Q, A any](
	ctx context.Context, method func(context.Context, *Q, ...grpc.CallOption) (*A, error), request *Q,
) (*A, error) {
	growth := 1.0
	for {
		var trailer metadata.MD
		answer, err := method(ctx, request, grpc.Trailer(&trailer))
		if err == nil {
			return answer, nil
		}
		code, hint := first(trailer, "sigil-code"), hintOf(trailer, err)
		if hint == 0 {
			// Only answers with a hint may be different next time. All others say what is wrong.
			return nil, fmt.Errorf("%s (field %q, request %s): %w",
				code, first(trailer, "sigil-field"), first(trailer, "x-request-id"), err)
		}
		// The hint is already spread, so the first wait is the hint; then twice as long each time.
		wait := min(time.Duration(float64(hint)*growth), backoffMax)
		if growth > 1 {
			wait = time.Duration(float64(wait) * (0.8 + 0.4*mathrand.Float64()))
		}
		fmt.Fprintf(os.Stderr, "%s: again in %d ms\n", code, wait.Milliseconds())
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, fmt.Errorf("gave up: %s (unlock %s): %w", code, first(trailer, "x-unlock-request-id"), err)
		}
		growth *= 2
	}
}

// hintOf says how long to wait, 0 if a retry would not help.
func hintOf(trailer metadata.MD, err error) time.Duration {
	if hint, wrong := strconv.Atoi(first(trailer, "retry_after_ms")); wrong == nil {
		return time.Duration(hint) * time.Millisecond
	}
	// No answer of the signer: the connection broke. gRPC dials again by itself.
	if status.Code(err) == codes.Unavailable && first(trailer, "sigil-code") == "" {
		return 100 * time.Millisecond
	}
	return 0
}

func first(trailer metadata.MD, name string) string {
	if values := trailer.Get(name); len(values) > 0 {
		return values[0]
	}
	return ""
}

// verifier is the offline verifier with what it accepts: no network, no trust in the signer or in anybody
// between.
type verifier struct{ program, root, measurements string }

// check has the birth statement of created verified, and what more names. The verifier takes the HTTP form.
func (v verifier) check(created *signerv1.CreateResponse, more ...string) error {
	birth := created.GetBirth()
	form, err := json.Marshal(map[string]any{
		"keyId":     created.GetKeyId(),
		"keyspace":  created.GetKeyspace(),
		"publicKey": hex.EncodeToString(created.GetPublicKey()),
		"birth": map[string]string{
			"statement":    hex.EncodeToString(birth.GetStatement()),
			"signature":    hex.EncodeToString(birth.GetSignature()),
			"documentHash": hex.EncodeToString(birth.GetDocumentHash()),
			"document":     base64.StdEncoding.EncodeToString(birth.GetDocument()),
		},
	})
	if err != nil {
		return err
	}
	arguments := []string{"ctl", "verify-key", "/dev/stdin", "--root", v.root, "--measurements", v.measurements}
	command := exec.Command(v.program, append(arguments, more...)...)
	command.Stdin = bytes.NewReader(form)
	if said, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("NOT VERIFIED, do not use this key: %s", said)
	}
	return nil
}

// create makes a key whose birth statement repeats a challenge of ours, so that it cannot be an older one.
func create(
	ctx context.Context, signer signerv1.SignerServiceClient, v verifier,
) (*signerv1.CreateResponse, error) {
	challenge := make([]byte, 32)
	// It never fails (crypto/rand).
	_, _ = rand.Read(challenge)
	request := &signerv1.CreateRequest{IdempotencyKey: rand.Text(), Challenge: challenge}
	created, err := call(ctx, signer.Create, request)
	if err != nil {
		return nil, err
	}
	return created, v.check(created, "--challenge", hex.EncodeToString(challenge))
}

func run() error {
	address := flag.String("address", "127.0.0.1:8080", "HOST:PORT or unix:/path of the signer")
	wait := flag.Duration("wait", 30*time.Second, "our own patience")
	text := flag.String("text", "pay 1 coin to alice", "its SHA-256 is signed")
	keyID := flag.String("key-id", "", "sign with this key")
	v := verifier{}
	flag.StringVar(&v.program, "verifier", "sigil-dataplane", "the program that verifies")
	flag.StringVar(&v.root, "root", "", "root certificate of attestation")
	flag.StringVar(&v.measurements, "measurements", "", "measurements.json of the accepted image")
	flag.Parse()
	if v.root == "" || v.measurements == "" {
		return errors.New("-root and -measurements are needed")
	}
	// One connection for the life of the process. The library's own retries know nothing of our hints.
	connection, err := grpc.NewClient(*address,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
	if err != nil {
		return err
	}
	defer connection.Close()
	signer := signerv1.NewSignerServiceClient(connection)
	ctx, cancel := context.WithTimeout(context.Background(), *wait)
	defer cancel()

	digest := sha256.Sum256([]byte(*text))
	var created *signerv1.CreateResponse
	if *keyID == "" {
		if created, err = create(ctx, signer, v); err != nil {
			return err
		}
		*keyID = created.GetKeyId()
	}
	signed, err := call(ctx, signer.Sign, &signerv1.SignRequest{KeyId: *keyID, Digest: digest[:]})
	if err != nil {
		return err
	}
	signature := hex.EncodeToString(signed.GetSignature())
	if created != nil {
		err = v.check(created, "--digest", hex.EncodeToString(digest[:]), "--signature", signature)
		if err != nil {
			return err
		}
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"keyId":      signed.GetKeyId(),
		"publicKey":  hex.EncodeToString(signed.GetPublicKey()),
		"signature":  signature,
		"recoveryId": signed.GetRecoveryId(),
		"digest":     hex.EncodeToString(digest[:]),
	})
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
