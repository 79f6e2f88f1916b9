/* Loaded before the C library (LD_PRELOAD), this makes the n-th operation of a process fail: a write, a flush, a rename,
   a new file or folder, a removal, below one folder; or an allocation of some size. Nothing is counted before `shim_arm`.
   With a log, it also writes down every operation with its bytes, from which tests/faults/disk.py builds what a power cut
   would leave. Python, HDF5, TensorStore, Arrow and Rust's library all call the functions below. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE = 1, SYNC = 2, RENAME = 4, CREATE = 8, MKDIR = 16, TRUNCATE = 32, REMOVE = 64, READ = 128, ALLOCATE = 256 };
enum { ONCE = 0, FULL = 1, GONE = 2 }; /* the n-th alone; from it on no room is left; from it on the disk is gone */

/* What the parent of a process reads when that has ended, whichever way it ended. */
struct shared {
    long counted, failed;
    int kind;
    char path[512];
};

static struct shared *shared;
static struct { int on, kinds, mode, log; long nth, least; char root[PATH_MAX]; size_t length; } armed = {.log = -1};
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static __thread int inside; /* what the shim itself does is not counted */

__attribute__((constructor)) static void begin(void) {
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

struct shared *shim_shared(void) { return shared; }

/* `least` is the size from which an allocation counts; `log` a file that is open for appending, or -1. */
void shim_arm(const char *root, int kinds, int mode, long nth, long least, int log) {
    memset(shared, 0, sizeof *shared);
    snprintf(armed.root, sizeof armed.root, "%s", root);
    armed.length = strlen(root);
    armed.kinds = kinds, armed.mode = mode, armed.nth = nth, armed.least = least, armed.log = log;
    armed.on = 1;
}

void shim_disarm(void) { armed.on = 0; }

#define NEXT(name) \
    static __typeof__(name) *next; \
    if (!next) next = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

/* ------------------------------------------------------------------------------------------- where, and whether */

static int below(const char *path) {
    return !strncmp(path, armed.root, armed.length) && (path[armed.length] == '/' || !path[armed.length]);
}

/* The absolute path of `path` seen from a folder's handle; is it below the root? */
static int placed(int folder, const char *path, char *out) {
    if (!armed.on || !path || inside) return 0;
    if (path[0] == '/') {
        snprintf(out, PATH_MAX, "%s", path);
    } else {
        char link[64];
        ssize_t n;
        if (folder == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
        else snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        if ((n = syscall(SYS_readlinkat, AT_FDCWD, link, out, (size_t)PATH_MAX / 2)) < 0) return 0;
        snprintf(out + n, (size_t)(PATH_MAX - n), "/%s", path);
    }
    return below(out);
}

/* The same of an open file. */
static int placed_at(int handle, char *out) {
    char link[64];
    ssize_t n;
    if (!armed.on || inside) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    if ((n = syscall(SYS_readlinkat, AT_FDCWD, link, out, (size_t)PATH_MAX - 1)) < 0) return 0;
    out[n] = 0;
    return below(out);
}

/* What failed first is kept. */
static void failed(int kind, const char *path) {
    if (shared->failed++) return;
    shared->kind = kind;
    snprintf(shared->path, sizeof shared->path, "%.500s", path);
}

/* Counts an operation; the error that it is to fail with, or 0. To be called with the lock held. */
static int due(int kind, const char *path) {
    static const int lacks_room = WRITE | CREATE | MKDIR, changes = ~(READ | ALLOCATE);
    long n;
    if (!(kind & armed.kinds)) return 0;
    n = ++shared->counted;
    if (!armed.nth || n < armed.nth) return 0;
    if (n > armed.nth) {
        if (armed.mode == ONCE || !shared->failed) return 0;
        if (kind != ALLOCATE && !(kind & (armed.mode == FULL ? lacks_room : changes))) return 0;
    }
    failed(kind, path);
    if (kind == ALLOCATE) return ENOMEM;
    return armed.mode == FULL || (armed.mode == ONCE && (kind & lacks_room)) ? ENOSPC : EIO;
}

/* A record of the log: numbers (the file's own among them), two paths, bytes. */
static void note(int kind, const char *path, const char *other, int64_t offset, const void *bytes, int64_t size) {
    struct stat found;
    int64_t file = armed.log >= 0 && !stat(other ? other : path, &found) ? (int64_t)found.st_ino : 0;
    int64_t head[6] = {kind, file, (int64_t)strlen(path), other ? (int64_t)strlen(other) : 0, offset, size};
    struct iovec parts[4] = {{head, sizeof head}, {(void *)path, (size_t)head[2]}, {(void *)other, (size_t)head[3]},
                             {(void *)bytes, bytes ? (size_t)size : 0}};
    if (armed.log >= 0) (void)!syscall(SYS_writev, armed.log, parts, 4);
}

#define COUNTED(kind, at, call, success, ...) \
    do { \
        int fault; \
        pthread_mutex_lock(&lock); \
        if ((fault = due(kind, at))) { \
            pthread_mutex_unlock(&lock); \
            errno = fault; \
            return -1; \
        } \
        __typeof__(call) result = call; \
        int before = errno; \
        if (success) note(__VA_ARGS__); \
        pthread_mutex_unlock(&lock); \
        errno = before; \
        return result; \
    } while (0)

/* -------------------------------------------------------------------------------------------------------- writes */

/* A disk that fills up takes a part of what is written. */
static size_t taken(size_t size) {
    int last = armed.mode == FULL && armed.nth && (armed.kinds & WRITE) && shared->counted + 1 == armed.nth;
    return last && size > 1 ? size / 2 : size;
}

/* Where an open file is written to next. */
static int64_t position(int handle) {
    struct stat found;
    int flags = fcntl(handle, F_GETFL);
    if (flags >= 0 && (flags & O_APPEND) && !fstat(handle, &found)) return found.st_size;
    return lseek(handle, 0, SEEK_CUR);
}

ssize_t write(int handle, const void *bytes, size_t size) {
    char at[PATH_MAX];
    ssize_t done;
    int fault;
    if (!placed_at(handle, at)) return syscall(SYS_write, handle, bytes, size);
    pthread_mutex_lock(&lock);
    size_t part = taken(size);
    if (part == size && (fault = due(WRITE, at))) {
        pthread_mutex_unlock(&lock);
        errno = fault;
        return -1;
    }
    if (part < size) {
        shared->counted++;
        failed(WRITE, at);
    }
    int64_t offset = armed.log >= 0 ? position(handle) : 0;
    done = syscall(SYS_write, handle, bytes, part);
    int before = errno;
    if (done > 0) note(WRITE, at, NULL, offset, bytes, done);
    pthread_mutex_unlock(&lock);
    errno = before;
    return done;
}

ssize_t pwrite(int handle, const void *bytes, size_t size, off_t offset) {
    char at[PATH_MAX];
    if (!placed_at(handle, at)) return syscall(SYS_pwrite64, handle, bytes, size, offset);
    COUNTED(WRITE, at, syscall(SYS_pwrite64, handle, bytes, size, offset), result > 0, WRITE, at, NULL, offset, bytes, result);
}

ssize_t pwrite64(int handle, const void *bytes, size_t size, off64_t offset) { return pwrite(handle, bytes, size, offset); }

/* Of several parts the first that is not empty is written; the caller goes on with the rest, as after any short write. */
ssize_t writev(int handle, const struct iovec *parts, int count) {
    char at[PATH_MAX];
    if (!placed_at(handle, at)) return syscall(SYS_writev, handle, parts, count);
    while (count > 1 && !parts->iov_len) parts++, count--;
    return count ? write(handle, parts->iov_base, parts->iov_len) : 0;
}

ssize_t pwritev(int handle, const struct iovec *parts, int count, off_t offset) {
    char at[PATH_MAX];
    if (!placed_at(handle, at)) return syscall(SYS_pwritev, handle, parts, count, offset, 0L);
    while (count > 1 && !parts->iov_len) parts++, count--;
    return count ? pwrite(handle, parts->iov_base, parts->iov_len, offset) : 0;
}

ssize_t pwritev64(int handle, const struct iovec *parts, int count, off64_t offset) {
    return pwritev(handle, parts, count, offset);
}

/* Copies within the kernel are not to be had here: callers then read and write. */
ssize_t sendfile(int out, int from, off_t *offset, size_t size) {
    char at[PATH_MAX];
    if (!placed_at(out, at)) return syscall(SYS_sendfile, out, from, offset, size);
    errno = EINVAL;
    return -1;
}

ssize_t sendfile64(int out, int from, off64_t *offset, size_t size) { return sendfile(out, from, (off_t *)offset, size); }

ssize_t copy_file_range(int from, off64_t *start, int out, off64_t *offset, size_t size, unsigned flags) {
    char at[PATH_MAX];
    if (!placed_at(out, at)) return syscall(SYS_copy_file_range, from, start, out, offset, size, flags);
    errno = EXDEV;
    return -1;
}

static int truncated(int handle, off64_t size) {
    char at[PATH_MAX];
    if (!placed_at(handle, at)) return (int)syscall(SYS_ftruncate, handle, size);
    COUNTED(TRUNCATE, at, (int)syscall(SYS_ftruncate, handle, size), !result, TRUNCATE, at, NULL, size, NULL, 0);
}

int ftruncate(int handle, off_t size) { return truncated(handle, size); }
int ftruncate64(int handle, off64_t size) { return truncated(handle, size); }

/* ------------------------------------------------------------------------------------------------------- flushes */

int fsync(int handle) {
    char at[PATH_MAX];
    if (!placed_at(handle, at)) return (int)syscall(SYS_fsync, handle);
    COUNTED(SYNC, at, (int)syscall(SYS_fsync, handle), !result, SYNC, at, NULL, 0, NULL, 0);
}

int fdatasync(int handle) {
    char at[PATH_MAX];
    if (!placed_at(handle, at)) return (int)syscall(SYS_fdatasync, handle);
    COUNTED(SYNC, at, (int)syscall(SYS_fdatasync, handle), !result, SYNC, at, NULL, 0, NULL, 0);
}

/* --------------------------------------------------------------------------------------------- names and folders */

static int opened(int folder, const char *path, int flags, mode_t mode) {
    char at[PATH_MAX];
    struct stat found;
    if (!placed(folder, path, at)) return (int)syscall(SYS_openat, folder, path, flags, mode);
    int there = !stat(at, &found);
    if (!there && (flags & O_CREAT))
        COUNTED(CREATE, at, (int)syscall(SYS_openat, folder, path, flags, mode), result >= 0, CREATE, at, NULL, 0, NULL, 0);
    if (there && (flags & O_TRUNC) && (flags & O_ACCMODE) != O_RDONLY)
        COUNTED(TRUNCATE, at, (int)syscall(SYS_openat, folder, path, flags, mode), result >= 0, TRUNCATE, at, NULL, 0, NULL, 0);
    if (there && (flags & O_ACCMODE) == O_RDONLY && (armed.kinds & READ))
        COUNTED(READ, at, (int)syscall(SYS_openat, folder, path, flags, mode), 0, READ, at, NULL, 0, NULL, 0);
    return (int)syscall(SYS_openat, folder, path, flags, mode);
}

#define MODE(flags, mode) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | __O_TMPFILE)) { \
        va_list more; \
        va_start(more, flags); \
        mode = (mode_t)va_arg(more, int); \
        va_end(more); \
    }

int open(const char *path, int flags, ...) { MODE(flags, mode) return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags, mode) return opened(AT_FDCWD, path, flags, mode); }
int openat(int folder, const char *path, int flags, ...) { MODE(flags, mode) return opened(folder, path, flags, mode); }
int openat64(int folder, const char *path, int flags, ...) { MODE(flags, mode) return opened(folder, path, flags, mode); }
int creat(const char *path, mode_t mode) { return opened(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

int mkdirat(int folder, const char *path, mode_t mode) {
    char at[PATH_MAX];
    struct stat found;
    if (!placed(folder, path, at) || !stat(at, &found)) return (int)syscall(SYS_mkdirat, folder, path, mode);
    COUNTED(MKDIR, at, (int)syscall(SYS_mkdirat, folder, path, mode), !result, MKDIR, at, NULL, 0, NULL, 0);
}

int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

int renameat2(int from, const char *path, int to, const char *other, unsigned flags) {
    char at[PATH_MAX], then[PATH_MAX];
    int here = placed(from, path, at), there = placed(to, other, then);
    if (!here && !there) return (int)syscall(SYS_renameat2, from, path, to, other, flags);
    COUNTED(RENAME, then, (int)syscall(SYS_renameat2, from, path, to, other, flags), !result, RENAME, at, then, 0, NULL, 0);
}

int renameat(int from, const char *path, int to, const char *other) { return renameat2(from, path, to, other, 0); }
int rename(const char *path, const char *other) { return renameat2(AT_FDCWD, path, AT_FDCWD, other, 0); }

/* What is not there is no failure of the disk: removals count when there is something to remove. */
int unlinkat(int folder, const char *path, int flags) {
    char at[PATH_MAX];
    struct stat found;
    if (!placed(folder, path, at) || lstat(at, &found)) return (int)syscall(SYS_unlinkat, folder, path, flags);
    COUNTED(REMOVE, at, (int)syscall(SYS_unlinkat, folder, path, flags), !result, REMOVE, at, NULL, 0, NULL, 0);
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int remove(const char *path) {
    struct stat found;
    return lstat(path, &found) || !S_ISDIR(found.st_mode) ? unlink(path) : rmdir(path);
}

ssize_t read(int handle, void *bytes, size_t size) {
    char at[PATH_MAX];
    if (!(armed.kinds & READ) || !placed_at(handle, at)) return syscall(SYS_read, handle, bytes, size);
    COUNTED(READ, at, syscall(SYS_read, handle, bytes, size), 0, READ, at, NULL, 0, NULL, 0);
}

ssize_t pread(int handle, void *bytes, size_t size, off_t offset) {
    char at[PATH_MAX];
    if (!(armed.kinds & READ) || !placed_at(handle, at)) return syscall(SYS_pread64, handle, bytes, size, offset);
    COUNTED(READ, at, syscall(SYS_pread64, handle, bytes, size, offset), 0, READ, at, NULL, 0, NULL, 0);
}

ssize_t pread64(int handle, void *bytes, size_t size, off64_t offset) { return pread(handle, bytes, size, offset); }

/* --------------------------------------------------------------------------------------------------- allocations */

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static int refused(size_t size) {
    int fault;
    if (!armed.on || !(armed.kinds & ALLOCATE) || size < (size_t)armed.least || inside) return 0;
    inside = 1;
    pthread_mutex_lock(&lock);
    char words[64];
    snprintf(words, sizeof words, "%zu bytes", size);
    fault = due(ALLOCATE, words);
    pthread_mutex_unlock(&lock);
    inside = 0;
    if (fault) errno = fault;
    return fault;
}

void *malloc(size_t size) { return refused(size) ? NULL : __libc_malloc(size); }
void *calloc(size_t count, size_t size) { return refused(count * size) ? NULL : __libc_calloc(count, size); }
void *realloc(void *old, size_t size) { return refused(size) ? NULL : __libc_realloc(old, size); }
void *memalign(size_t alignment, size_t size) { return refused(size) ? NULL : __libc_memalign(alignment, size); }
void *aligned_alloc(size_t alignment, size_t size) { return refused(size) ? NULL : __libc_memalign(alignment, size); }

int posix_memalign(void **found, size_t alignment, size_t size) {
    if (refused(size)) return ENOMEM;
    void *given = __libc_memalign(alignment, size);
    if (!given) return ENOMEM;
    *found = given;
    return 0;
}

void *mmap(void *hint, size_t size, int protection, int flags, int handle, off_t offset) {
    if ((flags & MAP_ANONYMOUS) && refused(size)) return MAP_FAILED;
    return (void *)syscall(SYS_mmap, hint, size, protection, flags, handle, offset);
}

void *mmap64(void *hint, size_t size, int protection, int flags, int handle, off64_t offset) {
    return mmap(hint, size, protection, flags, handle, offset);
}
