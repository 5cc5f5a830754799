package main

// The clients that generators make of both forms of the contract, against a running signer: SIGIL_ADDRESS is
// its HOST:PORT.

import (
	"context"
	"encoding/hex"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"sigil.dev/clients/signerhttp"
	"sigil.dev/clients/signerv1"
)

var digest = strings.Repeat("ab", 32)

func faces(t *testing.T) (
	context.Context, *signerhttp.ClientWithResponses, signerv1.SignerServiceClient,
) {
	t.Helper()
	address := os.Getenv("SIGIL_ADDRESS")
	if address == "" {
		t.Fatal("SIGIL_ADDRESS is not set; make test-api starts a signer and sets it")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	overHTTP, err := signerhttp.NewClientWithResponses("http://" + address)
	if err != nil {
		t.Fatal(err)
	}
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	return ctx, overHTTP, signerv1.NewSignerServiceClient(connection)
}

func created(t *testing.T, ctx context.Context, overGRPC signerv1.SignerServiceClient) *signerv1.CreateResponse {
	t.Helper()
	answer, err := call(ctx, overGRPC.Create, &signerv1.CreateRequest{IdempotencyKey: t.Name()})
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func TestBothFacesAreOneSigner(t *testing.T) {
	ctx, overHTTP, overGRPC := faces(t)
	key := created(t, ctx, overGRPC)
	name := t.Name()
	same, err := overHTTP.CreateWithResponse(ctx, nil, signerhttp.CreateRequest{IdempotencyKey: &name})
	if err != nil || same.JSON200 == nil {
		t.Fatal(err, string(same.Body))
	}
	if same.JSON200.KeyId != key.GetKeyId() || same.JSON200.PublicKey != hex.EncodeToString(key.GetPublicKey()) {
		t.Fatalf("the same idempotency key made another key: %v, %v", same.JSON200, key)
	}
	bytes, _ := hex.DecodeString(digest)
	a, err := call(ctx, overGRPC.Sign, &signerv1.SignRequest{KeyId: key.GetKeyId(), Digest: bytes, Der: true})
	if err != nil {
		t.Fatal(err)
	}
	der := true
	request := signerhttp.SignRequest{KeyId: key.GetKeyId(), Digest: digest, Der: &der}
	b, err := overHTTP.SignWithResponse(ctx, nil, request)
	if err != nil || b.JSON200 == nil {
		t.Fatal(err, string(b.Body))
	}
	if hex.EncodeToString(a.GetSignature()) != b.JSON200.Signature || hex.EncodeToString(a.GetDer()) != *b.JSON200.Der {
		t.Fatal("the same request gave another signature")
	}
	one, err := overHTTP.GetKeyWithResponse(ctx, key.GetKeyId(), nil)
	if err != nil || one.JSON200 == nil || one.JSON200.PublicKey != b.JSON200.PublicKey {
		t.Fatal(err, string(one.Body))
	}
	two, err := overGRPC.GetKey(ctx, &signerv1.GetKeyRequest{KeyId: key.GetKeyId()})
	if err != nil || int(two.GetKey().GetCreatedMs()) != one.JSON200.CreatedMs {
		t.Fatal(err, two)
	}
	proof, err := overHTTP.GetAttestationWithResponse(ctx, key.GetKeyId(), nil)
	if err != nil || proof.JSON200 == nil {
		t.Fatal(err, string(proof.Body))
	}
	if proof.JSON200.Statement != hex.EncodeToString(key.GetBirth().GetStatement()) {
		t.Fatal("the birth statement is another one later")
	}
}

func TestListsHaveEveryKeyOnce(t *testing.T) {
	ctx, overHTTP, overGRPC := faces(t)
	key := created(t, ctx, overGRPC)
	seen := map[string]int{}
	for page := ""; ; {
		answer, err := overGRPC.ListKeys(ctx, &signerv1.ListKeysRequest{Page: page})
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range answer.GetKeys() {
			seen[one.GetKeyId()]++
		}
		if page = answer.GetNextPage(); page == "" {
			break
		}
	}
	if seen[key.GetKeyId()] != 1 {
		t.Fatalf("%s is listed %d times", key.GetKeyId(), seen[key.GetKeyId()])
	}
	answer, err := overHTTP.ListKeysWithResponse(ctx, nil)
	if err != nil || answer.JSON200 == nil || len(answer.JSON200.Keys) == 0 {
		t.Fatal(err, string(answer.Body))
	}
}

func TestEachRequestOfABatchHasItsOwnResult(t *testing.T) {
	ctx, overHTTP, overGRPC := faces(t)
	key := created(t, ctx, overGRPC).GetKeyId()
	bytes, _ := hex.DecodeString(digest)
	a, err := overGRPC.SignBatch(ctx, &signerv1.SignBatchRequest{Requests: []*signerv1.SignRequest{
		{KeyId: key, Digest: bytes}, {KeyId: key, Digest: bytes[:31]},
	}})
	if err != nil {
		t.Fatal(err)
	}
	requests := []signerhttp.SignRequest{{KeyId: key, Digest: digest}, {KeyId: key, Digest: digest[:62]}}
	b, err := overHTTP.SignBatchWithResponse(ctx, nil, signerhttp.SignBatchRequest{Requests: requests})
	if err != nil || b.JSON200 == nil {
		t.Fatal(err, string(b.Body))
	}
	good, bad := a.GetResults()[0], a.GetResults()[1]
	if hex.EncodeToString(good.GetSigned().GetSignature()) != b.JSON200.Results[0].Signed.Signature {
		t.Fatal("the faces sign differently")
	}
	if bad.GetError().GetCode() != "INVALID_ARGUMENT" || bad.GetError().GetField() != "digest" ||
		string(b.JSON200.Results[1].Error.Code) != "INVALID_ARGUMENT" {
		t.Fatalf("%v, %v", bad, b.JSON200.Results[1].Error)
	}
}

func TestAStreamAnswersEveryTagOnce(t *testing.T) {
	ctx, _, overGRPC := faces(t)
	key := created(t, ctx, overGRPC).GetKeyId()
	stream, err := overGRPC.SignStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	const count = 1_000
	go func() {
		for tag := range uint64(count) {
			digest := make([]byte, 32)
			digest[0], digest[1] = byte(tag), byte(tag>>8)
			request := &signerv1.SignRequest{KeyId: key, Digest: digest}
			// An error here shows as one of Recv.
			_ = stream.Send(&signerv1.SignStreamRequest{Tag: tag, Request: request})
		}
		_ = stream.CloseSend()
	}()
	seen := map[uint64]string{}
	for {
		answer, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := seen[answer.GetTag()]; twice || answer.GetResult().GetSigned() == nil {
			t.Fatal(answer)
		}
		seen[answer.GetTag()] = string(answer.GetResult().GetSigned().GetSignature())
	}
	if len(seen) != count {
		t.Fatalf("%d answers", len(seen))
	}
}

// One error table: the code of both faces, with the status that the table gives it.
func TestErrorsAreTheSameOnBothFaces(t *testing.T) {
	ctx, overHTTP, overGRPC := faces(t)
	unknown := "k1" + strings.Repeat("a", 26)
	for _, it := range []struct {
		key, digest, code, field string
		http                     int
		grpc                     codes.Code
	}{
		{unknown, digest, "KEY_NOT_FOUND", "keyId", 404, codes.NotFound},
		{unknown, digest[:62], "INVALID_ARGUMENT", "digest", 400, codes.InvalidArgument},
		{"k1", digest, "INVALID_ARGUMENT", "keyId", 400, codes.InvalidArgument},
	} {
		answer, err := overHTTP.SignWithResponse(ctx, nil, signerhttp.SignRequest{KeyId: it.key, Digest: it.digest})
		if err != nil {
			t.Fatal(err)
		}
		problem := answer.ApplicationproblemJSONDefault
		if problem == nil || string(problem.Code) != it.code || problem.Status != it.http {
			t.Fatalf("%v: %s", it, answer.Body)
		}
		bytes, _ := hex.DecodeString(it.digest)
		var trailer metadata.MD
		_, err = overGRPC.Sign(ctx, &signerv1.SignRequest{KeyId: it.key, Digest: bytes}, grpc.Trailer(&trailer))
		if status.Code(err) != it.grpc || first(trailer, "sigil-code") != it.code {
			t.Fatalf("%v: %v %v", it, err, trailer)
		}
		if first(trailer, "sigil-field") != it.field || (problem.Field == nil) != (it.field == "") {
			t.Fatalf("%v: %v %v", it, trailer, problem.Field)
		}
	}
}

func TestARequestIdIsRepeatedByBothFaces(t *testing.T) {
	ctx, overHTTP, overGRPC := faces(t)
	id := "from-the-test"
	answer, err := overHTTP.ListKeysWithResponse(ctx, &signerhttp.ListKeysParams{XRequestId: &id})
	if err != nil || answer.HTTPResponse.Header.Get("x-request-id") != id || answer.StatusCode() != http.StatusOK {
		t.Fatal(err, answer.HTTPResponse.Header)
	}
	var header metadata.MD
	ctx = metadata.AppendToOutgoingContext(ctx, "x-request-id", id)
	if _, err := overGRPC.ListKeys(ctx, &signerv1.ListKeysRequest{}, grpc.Header(&header)); err != nil {
		t.Fatal(err)
	}
	if first(header, "x-request-id") != id {
		t.Fatal(header)
	}
}
