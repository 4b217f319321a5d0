// Preloaded: makes the N-th change of a file below a folder fail, or ends the process there.
//
// Counted are calls of libc, by whoever makes them, that change what lies below the folder: see KINDS in injector.py,
// which arms it. A write that is to be cut off by a kill or a full disk is first done by half.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { WRITE, RENAME, FSYNC, OPEN, MKDIR, UNLINK, TRUNCATE };
enum action { COUNT, KILL, TERMINATE, FULL, BROKEN };
enum { MOST = 8192, LONGEST = 512 };

static char root[LONGEST];
static int action;
static long at;
static atomic_long count;
static atomic_int full;
static struct {
    int kind;
    char path[LONGEST];
} seen[MOST];

void torture_arm(const char *folder, long point, int what) {
    snprintf(root, sizeof root, "%s", folder);
    at = point;
    action = what;
    count = 0;
    full = 0;
}
void torture_disarm(void) { root[0] = 0; }
long torture_count(void) { return count; }
int torture_kind(long point) { return seen[point].kind; }
const char *torture_path(long point) { return seen[point].path; }

static void real_path(char *out, int folder, const char *path) {
    char base[LONGEST] = "";
    if (path && path[0] == '/') {
        snprintf(out, LONGEST, "%s", path);
        return;
    }
    if (folder == AT_FDCWD) {
        if (!getcwd(base, sizeof base)) base[0] = 0;
    } else {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t length = readlink(link, base, sizeof base - 1);
        base[length < 0 ? 0 : length] = 0;
    }
    size_t length = strlen(base);
    snprintf(out, LONGEST, "%s", base);
    if (path) snprintf(out + length, LONGEST - length, "/%s", path);
}

// What the caller is to do: go on (0), fail with this errno, or, where it can, write a half and then come to `cut`.
static int point(enum kind kind, int folder, const char *path, int *half) {
    *half = 0;
    if (!root[0]) return 0;
    int before = errno;
    char whole[LONGEST];
    real_path(whole, folder, path);
    errno = before;
    size_t length = strlen(root);
    if (strncmp(whole, root, length) != 0 || whole[length] != '/') return 0;
    long number = atomic_fetch_add(&count, 1);
    if (number < MOST) {
        seen[number].kind = kind;
        memcpy(seen[number].path, whole, LONGEST);
    }
    if (full && kind != UNLINK && kind != RENAME) return ENOSPC;
    if (number != at) return 0;
    switch (action) {
    case KILL:
        if (kind == WRITE)
            *half = 1;
        else
            kill(getpid(), SIGKILL);
        return 0;
    case TERMINATE:
        kill(getpid(), SIGTERM);
        return 0;
    case FULL:
        full = 1;
        if (kind == WRITE) *half = 1;
        return kind == UNLINK || kind == WRITE ? 0 : ENOSPC;
    case BROKEN:
        return EIO;
    }
    return 0;
}

#define REAL(type, name, ...)                                                                                          \
    static type (*real)(__VA_ARGS__);                                                                                  \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

#define GUARD(kind, folder, path)                                                                                      \
    int half, error = point(kind, folder, path, &half);                                                                \
    if (error) {                                                                                                       \
        errno = error;                                                                                                 \
        return -1;                                                                                                     \
    }

static ssize_t cut(ssize_t written) {
    if (action == KILL) kill(getpid(), SIGKILL);
    return written;
}

#define WRITER(name, offset)                                                                                           \
    ssize_t name(int file, const void *data, size_t size, offset place) {                                              \
        REAL(ssize_t, name, int, const void *, size_t, offset);                                                        \
        GUARD(WRITE, file, NULL)                                                                                       \
        return half ? cut(real(file, data, size > 1 ? size / 2 : size, place)) : real(file, data, size, place);        \
    }
WRITER(pwrite, off_t)
WRITER(pwrite64, off64_t)

ssize_t write(int file, const void *data, size_t size) {
    REAL(ssize_t, write, int, const void *, size_t);
    GUARD(WRITE, file, NULL)
    return half ? cut(real(file, data, size > 1 ? size / 2 : size)) : real(file, data, size);
}

ssize_t writev(int file, const struct iovec *parts, int number) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
    GUARD(WRITE, file, NULL)
    return half ? cut(real(file, parts, number > 1 ? number / 2 : number)) : real(file, parts, number);
}

#define SIMPLE(name, kind, folder, path, parameters, arguments)                                                        \
    int name parameters {                                                                                              \
        static int(*real) parameters;                                                                                  \
        if (!real) real = (int(*) parameters)dlsym(RTLD_NEXT, #name);                                                  \
        GUARD(kind, folder, path)                                                                                      \
        return real arguments;                                                                                         \
    }
SIMPLE(rename, RENAME, AT_FDCWD, new, (const char *old, const char *new), (old, new))
SIMPLE(renameat, RENAME, to, new, (int from, const char *old, int to, const char *new), (from, old, to, new))
SIMPLE(renameat2, RENAME, to, new, (int from, const char *old, int to, const char *new, unsigned flags),
       (from, old, to, new, flags))
SIMPLE(fsync, FSYNC, file, NULL, (int file), (file))
SIMPLE(fdatasync, FSYNC, file, NULL, (int file), (file))
SIMPLE(mkdir, MKDIR, AT_FDCWD, path, (const char *path, mode_t mode), (path, mode))
SIMPLE(mkdirat, MKDIR, folder, path, (int folder, const char *path, mode_t mode), (folder, path, mode))
SIMPLE(unlink, UNLINK, AT_FDCWD, path, (const char *path), (path))
SIMPLE(unlinkat, UNLINK, folder, path, (int folder, const char *path, int flags), (folder, path, flags))
SIMPLE(rmdir, UNLINK, AT_FDCWD, path, (const char *path), (path))
SIMPLE(ftruncate, TRUNCATE, file, NULL, (int file, off_t size), (file, size))
SIMPLE(ftruncate64, TRUNCATE, file, NULL, (int file, off64_t size), (file, size))

#define OPENER(name, folder, parameters, arguments)                                                                    \
    int name parameters {                                                                                              \
        static int(*real) parameters;                                                                                  \
        if (!real) real = (int(*) parameters)dlsym(RTLD_NEXT, #name);                                                  \
        mode_t mode = 0;                                                                                               \
        if (flags & (O_CREAT | __O_TMPFILE)) {                                                                         \
            va_list more;                                                                                              \
            va_start(more, flags);                                                                                     \
            mode = va_arg(more, mode_t);                                                                               \
            va_end(more);                                                                                              \
        }                                                                                                              \
        if (flags & (O_CREAT | O_WRONLY | O_RDWR)) {                                                                   \
            GUARD(OPEN, folder, path)                                                                                  \
        }                                                                                                              \
        return real arguments;                                                                                         \
    }
OPENER(open, AT_FDCWD, (const char *path, int flags, ...), (path, flags, mode))
OPENER(open64, AT_FDCWD, (const char *path, int flags, ...), (path, flags, mode))
OPENER(openat, folder, (int folder, const char *path, int flags, ...), (folder, path, flags, mode))
OPENER(openat64, folder, (int folder, const char *path, int flags, ...), (folder, path, flags, mode))
