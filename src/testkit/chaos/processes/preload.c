/* Loaded into a process ahead of the C library (LD_PRELOAD): its wall clock is off by as many seconds as a file says,
 * and its data files cannot grow while the file says so. The file may change at any time. It holds two numbers of eight
 * bytes: the seconds, and whether the disk is full.
 *
 * CLOCK_MONOTONIC is left alone: a step of the wall clock leaves it alone too. A full disk lets a program write where
 * it has room already, so only a write beyond the end of a file fails, and only of files under the folder that
 * FREEHOLD_FULL names: a database's log is kept on another disk where it matters. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static const long long nothing[2];
static const volatile long long *said = nothing;
static const char *full_folder;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FREEHOLD_PRELOAD_SAYS");
    full_folder = getenv("FREEHOLD_FULL");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *map = mmap(NULL, sizeof nothing, PROT_READ, MAP_SHARED, file, 0);
    if (map != MAP_FAILED) said = map;
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    int failed = syscall(SYS_clock_gettime, clock, at);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) at->tv_sec += said[0];
    return failed;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    struct timespec now;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}

/* Whether a write that ends here has no room. */
static int no_room(int file, off_t end) {
    char link[64], path[4096];
    struct stat now;
    if (!said[1] || !full_folder || fstat(file, &now) || !S_ISREG(now.st_mode) || end <= now.st_size) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return strstr(path, full_folder) != NULL;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t pwrite(int file, const void *from, size_t size, off_t at) {
    if (no_room(file, at + (off_t)size)) return errno = ENOSPC, -1;
    return REAL(pwrite)(file, from, size, at);
}

ssize_t pwrite64(int file, const void *from, size_t size, off64_t at) { return pwrite(file, from, size, at); }

ssize_t pwritev(int file, const struct iovec *parts, int count, off_t at) {
    off_t size = 0;
    for (int part = 0; part < count; part++) size += (off_t)parts[part].iov_len;
    if (no_room(file, at + size)) return errno = ENOSPC, -1;
    return REAL(pwritev)(file, parts, count, at);
}

ssize_t pwritev64(int file, const struct iovec *parts, int count, off64_t at) {
    return pwritev(file, parts, count, at);
}

int posix_fallocate(int file, off_t at, off_t size) {
    if (no_room(file, at + size)) return ENOSPC;
    return REAL(posix_fallocate)(file, at, size);
}

int posix_fallocate64(int file, off64_t at, off64_t size) { return posix_fallocate(file, at, size); }
