/* What a pod of the cluster test runs, and how it looks around from inside.
 *   probe serve PORT         answers each connection with its host name
 *   probe get ADDRESS PORT   prints such an answer
 *   probe cpus               prints the cores that it may run on
 *   probe write FILE TEXT    writes TEXT durably
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

static int check(int result, const char *what) {
    if (result < 0) {
        perror(what);
        exit(1);
    }
    return result;
}

static void end(int signal) {
    (void)signal;
    _exit(0);
}

static struct sockaddr_in address_of(const char *address, const char *port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(port))};
    check(inet_pton(AF_INET, address, &to.sin_addr) == 1 ? 0 : -1, "address");
    return to;
}

static void serve(const char *port) {
    char name[256] = "";
    struct sockaddr_in at = address_of("0.0.0.0", port);
    int one = 1;
    int listener = check(socket(AF_INET, SOCK_STREAM, 0), "socket");
    signal(SIGTERM, end); /* the first process of a container ignores what it does not handle */
    check(gethostname(name, sizeof name - 1), "gethostname");
    check(setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one), "setsockopt");
    check(bind(listener, (struct sockaddr *)&at, sizeof at), "bind");
    check(listen(listener, 16), "listen");
    printf("serving\n");
    fflush(stdout);
    for (;;) {
        int peer = check(accept(listener, NULL, NULL), "accept");
        dprintf(peer, "%s\n", name);
        close(peer);
    }
}

static void get(const char *address, const char *port) {
    char answer[256];
    ssize_t length;
    struct timeval limit = {.tv_sec = 5};
    struct sockaddr_in to = address_of(address, port);
    int peer = check(socket(AF_INET, SOCK_STREAM, 0), "socket");
    check(setsockopt(peer, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit), "setsockopt");
    check(setsockopt(peer, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit), "setsockopt");
    check(connect(peer, (struct sockaddr *)&to, sizeof to), "connect");
    while ((length = check((int)read(peer, answer, sizeof answer), "read")) > 0) {
        fwrite(answer, 1, (size_t)length, stdout);
    }
}

static void cpus(void) {
    cpu_set_t set;
    check(sched_getaffinity(0, sizeof set, &set), "sched_getaffinity");
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET(cpu, &set)) {
            printf("%d\n", cpu);
        }
    }
}

static void write_file(const char *path, const char *text) {
    int file = check(open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644), path);
    check(dprintf(file, "%s\n", text), "write");
    check(fsync(file), "fsync");
}

int main(int count, char **words) {
    if (count == 3 && strcmp(words[1], "serve") == 0) {
        serve(words[2]);
    } else if (count == 4 && strcmp(words[1], "get") == 0) {
        get(words[2], words[3]);
    } else if (count == 2 && strcmp(words[1], "cpus") == 0) {
        cpus();
    } else if (count == 4 && strcmp(words[1], "write") == 0) {
        write_file(words[2], words[3]);
    } else {
        fprintf(stderr, "probe: serve PORT | get ADDRESS PORT | cpus | write FILE TEXT\n");
        return 2;
    }
    return 0;
}
