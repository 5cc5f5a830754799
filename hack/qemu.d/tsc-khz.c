// Prints the rate of this machine's time stamp counter in kHz. QEMU's translator hands it to the
// guest as it is, and a guest on a busy host cannot measure it: it then counts time in ticks of
// 10 ms. Given to the guest as tsc_early_khz=N.
#include <stdio.h>
#include <time.h>
#include <x86intrin.h>

enum { MEASURED_NS = 100 * 1000 * 1000 };

static long long now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_RAW, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

// Counter and clock as one instant: of several readings, the one that took the shortest.
static void instant(unsigned long long *ticks, long long *ns) {
    unsigned long long best = ~0ULL;
    for (int i = 0; i < 64; i++) {
        unsigned long long before = __rdtsc();
        long long at = now_ns();
        unsigned long long took = __rdtsc() - before;
        if (took < best) {
            best = took;
            *ticks = before + took / 2;
            *ns = at;
        }
    }
}

int main(void) {
    unsigned long long first = 0, last = 0;
    long long begin = 0, end = 0;
    instant(&first, &begin);
    while (now_ns() - begin < MEASURED_NS) {
    }
    instant(&last, &end);
    printf("%llu\n", (last - first) * 1000000ULL / (unsigned long long)(end - begin));
    return 0;
}
