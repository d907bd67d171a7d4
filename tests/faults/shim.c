/* Loaded into a node by LD_PRELOAD: its calendar may be wrong, its disk slow, its syncs may fail, as a shared page says. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct knobs {
    volatile int64_t ahead_s, sync_ms, sync_errno;
};

static const struct knobs *knobs;

__attribute__((constructor)) static void open_knobs(void) {
    const char *path = getenv("FAULTS_KNOBS");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *page = mmap(NULL, sizeof(struct knobs), PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (page != MAP_FAILED)
        knobs = page;
}

int clock_gettime(clockid_t id, struct timespec *t) {
    int failed = (int)syscall(SYS_clock_gettime, id, t);
    if (!failed && knobs && id == CLOCK_REALTIME)
        t->tv_sec += knobs->ahead_s;
    return failed;
}

static int disturbed(void) {
    if (!knobs)
        return 0;
    int64_t ms = knobs->sync_ms;
    if (ms > 0) {
        struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (ms % 1000) * 1000000};
        nanosleep(&t, NULL);
    }
    if (knobs->sync_errno) {
        errno = (int)knobs->sync_errno;
        return 1;
    }
    return 0;
}

int fsync(int fd) { return disturbed() ? -1 : (int)syscall(SYS_fsync, fd); }

int fdatasync(int fd) { return disturbed() ? -1 : (int)syscall(SYS_fdatasync, fd); }
