/* A disk that loses what was not synced when the power is cut, and that can be full: for the files in one folder of the
 * process that this is LD_PRELOADed into. Everything else goes to the kernel as it is.
 *
 * Power cut (disk_arm): each write goes to the file, and waits in a list until its file is synced; then it goes to a
 * copy of the file in a second folder, too. When the power is cut, that folder is what the disk holds. A file exists
 * there once its folder was synced. The cut may also let any sectors of what waits reach the disk, in any order.
 * A file that is removed is gone at once. -shm files are memory, and never there.
 *
 * Full (disk_fill, or while the file $DISK_FULL exists): a write of more than a sector comes to one sector, the next
 * fails with ENOSPC; where no power cut is armed, in folders below too. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define SECTOR 512
#define NAMES 64

struct change {  /* a write; or, without data, a truncation to offset */
    char name[NAME_MAX + 1];
    off_t offset;
    size_t size;
    char *data;
    struct change *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char folder[PATH_MAX], durable[PATH_MAX], full_file[PATH_MAX], report[PATH_MAX];
static char linked[NAMES][NAME_MAX + 1];  /* names in the folder that a power cut leaves */
static struct change *waiting;
static long operations, cut_at, full_from, full_upto;
static uint64_t chance;  /* 0: nothing of what waits reaches the disk */
static int was_short;

static void die(const char *what) {
    perror(what);
    kill(getpid(), SIGABRT);
}

static int is_likely(void) {  /* xorshift: every second time */
    chance ^= chance << 13, chance ^= chance >> 7, chance ^= chance << 17;
    return chance >> 63;
}

/* The name of an open file in the folder: 1; the folder itself: 2; anything else: 0.
 * What stands deeper counts where the disk can only be full, and has no name. */
static int kind_of(int fd, char *name) {
    char link[64], path[PATH_MAX];
    size_t length = strlen(folder);
    if (!length) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < (ssize_t)length || memcmp(path, folder, length)) return 0;
    path[size] = 0;
    if (size == (ssize_t)length) return 2;
    const char *rest = path + length + 1, *end = strrchr(path, '-');
    if (path[length] != '/' || strstr(rest, " (deleted)") || (end && !strcmp(end, "-shm"))) return 0;
    if (strchr(rest, '/')) return name[0] = 0, !durable[0];
    strcpy(name, rest);
    return 1;
}

static int durable_file(const char *name) {
    char path[2 * PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", durable, name);
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) die(path);
    return fd;
}

static void land(int fd, struct change *change, size_t from, size_t size) {
    if (!change->data) {
        if (syscall(SYS_ftruncate, fd, change->offset)) die("ftruncate");
    } else if (syscall(SYS_pwrite64, fd, change->data + from, size, change->offset + from) != (long)size) {
        die("pwrite");
    }
}

static void wait_for_sync(const char *name, off_t offset, const void *data, size_t size) {
    struct change *change = calloc(1, sizeof *change), **last = &waiting;
    strcpy(change->name, name);
    change->offset = offset, change->size = size;
    if (data) change->data = malloc(size ? size : 1), memcpy(change->data, data, size);
    while (*last) last = &(*last)->next;
    *last = change;
}

static void forget(const char *name, int lands) {
    int fd = lands ? durable_file(name) : -1;
    for (struct change **at = &waiting; *at;) {
        struct change *change = *at;
        if (strcmp(change->name, name)) {
            at = &change->next;
            continue;
        }
        if (lands) land(fd, change, 0, change->size);
        *at = change->next;
        free(change->data), free(change);
    }
    if (lands) close(fd);
}

static int is_linked(const char *name) {
    for (int n = 0; n < NAMES; n++)
        if (!strcmp(linked[n], name)) return 1;
    return 0;
}

static void link_names(const char *from, int some) {
    DIR *open = opendir(from);
    for (struct dirent *entry; open && (entry = readdir(open));) {
        if (entry->d_name[0] == '.' || is_linked(entry->d_name) || (some && !is_likely())) continue;
        int n = 0;
        while (n < NAMES && linked[n][0]) n++;
        if (n == NAMES) die("too many names");
        strcpy(linked[n], entry->d_name);
        close(durable_file(entry->d_name));
    }
    if (open) closedir(open);
}

static void cut_power(void) {
    long lost = 0;
    for (struct change *change = waiting; change; change = change->next) {
        int fd = chance ? durable_file(change->name) : -1;
        for (size_t from = 0; from == 0 || from < change->size; from += SECTOR) {
            size_t size = change->size - from < SECTOR ? change->size - from : SECTOR;
            if (chance && is_likely()) land(fd, change, from, size);
            else lost++;
        }
        if (fd >= 0) close(fd);
    }
    if (chance) link_names(folder, 1);
    DIR *open = opendir(durable);
    for (struct dirent *entry; (entry = readdir(open));)
        if (entry->d_name[0] != '.' && !is_linked(entry->d_name)) unlinkat(dirfd(open), entry->d_name, 0);
    closedir(open);
    int fd = syscall(SYS_openat, AT_FDCWD, report, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    dprintf(fd, "%ld\n", lost);
    close(fd);
    kill(getpid(), SIGKILL);
}

/* Count an operation; whether it fails, because the disk is full. */
static int is_full(int takes_space) {
    operations++;
    if (cut_at && operations >= cut_at) cut_power();
    if (!takes_space) return 0;
    if (full_from <= operations && operations < full_upto) return 1;
    return full_file[0] && !syscall(SYS_faccessat, AT_FDCWD, full_file, F_OK);
}

static ssize_t write_at(int fd, const void *data, size_t size, off_t offset, int has_offset) {
    char name[NAME_MAX + 1];
    if (kind_of(fd, name) != 1) {
        return has_offset ? syscall(SYS_pwrite64, fd, data, size, offset) : syscall(SYS_write, fd, data, size);
    }
    pthread_mutex_lock(&lock);
    if (is_full(1)) {
        if (size > SECTOR && !was_short) {
            was_short = 1, size = SECTOR;
        } else {
            was_short = 0;
            if (full_file[0]) {
                char fired[PATH_MAX + 8];
                snprintf(fired, sizeof fired, "%s.fired", full_file);
                close(syscall(SYS_openat, AT_FDCWD, fired, O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
            }
            pthread_mutex_unlock(&lock);
            errno = ENOSPC;
            return -1;
        }
    }
    if (!has_offset) offset = lseek(fd, 0, SEEK_CUR);
    ssize_t wrote = has_offset ? syscall(SYS_pwrite64, fd, data, size, offset) : syscall(SYS_write, fd, data, size);
    int error = errno;
    if (wrote > 0 && durable[0]) wait_for_sync(name, offset, data, wrote);
    pthread_mutex_unlock(&lock);
    errno = error;
    return wrote;
}

static int sync_file(int fd, long number) {
    char name[NAME_MAX + 1];
    int kind = kind_of(fd, name);
    if (!kind || !durable[0]) {
        if (kind) pthread_mutex_lock(&lock), is_full(0), pthread_mutex_unlock(&lock);
        return syscall(number, fd);
    }
    pthread_mutex_lock(&lock);
    is_full(0);
    if (kind == 2) link_names(folder, 0);
    else forget(name, 1);
    pthread_mutex_unlock(&lock);
    return 0;  /* the power cut is ours: the real disk need not be waited for */
}

static int truncate_file(int fd, off_t size) {
    char name[NAME_MAX + 1];
    if (kind_of(fd, name) != 1) return syscall(SYS_ftruncate, fd, size);
    pthread_mutex_lock(&lock);
    is_full(0);
    int failed = syscall(SYS_ftruncate, fd, size), error = errno;
    if (!failed && durable[0]) wait_for_sync(name, size, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return failed;
}

/* --- what SQLite, Python and Java call */

ssize_t write(int fd, const void *data, size_t size) { return write_at(fd, data, size, 0, 0); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return write_at(fd, data, size, offset, 1); }
ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset) { return write_at(fd, data, size, offset, 1); }
ssize_t writev(int fd, const struct iovec *parts, int count) {
    char name[NAME_MAX + 1];
    if (count > 0 && kind_of(fd, name) == 1) return write(fd, parts->iov_base, parts->iov_len);  /* fewer is allowed */
    return syscall(SYS_writev, fd, parts, count);
}
int fsync(int fd) { return sync_file(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_file(fd, SYS_fdatasync); }
int ftruncate(int fd, off_t size) { return truncate_file(fd, size); }
int ftruncate64(int fd, off_t size) { return truncate_file(fd, size); }

int unlink(const char *path) {
    size_t length = strlen(folder);
    if (length && durable[0] && !strncmp(path, folder, length) && path[length] == '/') {
        const char *name = path + length + 1;
        char gone[2 * PATH_MAX];
        pthread_mutex_lock(&lock);
        is_full(0);
        forget(name, 0);
        for (int n = 0; n < NAMES; n++)
            if (!strcmp(linked[n], name)) linked[n][0] = 0;
        snprintf(gone, sizeof gone, "%s/%s", durable, name);
        syscall(SYS_unlinkat, AT_FDCWD, gone, 0);
        pthread_mutex_unlock(&lock);
    }
    return syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}

/* --- what tests call */

/* Cut the power at an operation (0: never). "into" holds what is on the disk now, and will hold what is left;
 * how many sectors were lost is written to "told". seed 0: everything that is not synced. */
void disk_arm(const char *at, const char *into, const char *told, long operation, uint64_t seed) {
    strcpy(folder, at), strcpy(durable, into), strcpy(report, told);
    memset(linked, 0, sizeof linked);
    operations = 0, cut_at = operation, chance = seed;
    link_names(durable, 0);
}

/* Let the disk be full from one operation up to another. */
void disk_fill(const char *at, long from, long upto) {
    strcpy(folder, at);
    operations = 0, full_from = from, full_upto = upto;
}

long disk_operations(void) { return operations; }

__attribute__((constructor)) static void from_environment(void) {
    const char *at = getenv("DISK_FOLDER"), *full = getenv("DISK_FULL");
    if (at && full) strcpy(folder, at), strcpy(full_file, full);
}
