/* What SQLite does to the files of one ledger, in the order in which it was asked for.

   To be loaded ahead of the C library:
     RECORD_OF=/path/ledger.db RECORD_TO=/path/log LD_PRELOAD=recorder.so python ...
   Each record is one appending write, so that those of several processes stay whole and in
   one order: kind, process, offset, length of data, length of name, the name, the data.
   W write, T truncate, U unlink, B and E begin and end of an fsync. A write is recorded before
   it is done: it can only be on the disk after that. The lock files and the shared memory
   are left out: after a power cut nobody believes them. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

struct __attribute__((packed)) record {
  char kind;
  uint32_t process;
  uint64_t offset;
  uint32_t length;
  uint16_t name_length;
};

static int log_file = -1;

static void record(char kind, const char *name, uint64_t offset, const void *data, size_t length) {
  int before = errno;
  if (log_file < 0) log_file = open(getenv("RECORD_TO"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  struct record head = {kind, (uint32_t)getpid(), offset, (uint32_t)length, (uint16_t)strlen(name)};
  struct iovec parts[3] = {
      {&head, sizeof head}, {(void *)name, head.name_length}, {(void *)data, length}};
  ssize_t wanted = (ssize_t)(sizeof head + head.name_length + length);
  /* A recording with a hole would prove nothing. */
  if (log_file < 0 || writev(log_file, parts, 3) != wanted) abort();
  errno = before;
}

/* Whether a path is the ledger's, its WAL's or its folder's: then the last part of it. */
static const char *ours(const char *path) {
  static char folder[PATH_MAX];
  const char *ledger = getenv("RECORD_OF");
  if (!ledger) return NULL;
  size_t length = strlen(ledger);
  if (!strncmp(path, ledger, length)) {
    if (!path[length]) return "db";
    if (!strcmp(path + length, "-wal")) return "wal";
    if (!strcmp(path + length, "-journal")) return "journal";
    return NULL;
  }
  strcpy(folder, ledger);
  *strrchr(folder, '/') = 0;
  return strcmp(path, folder) ? NULL : "folder";
}

static const char *name_of(int file) {
  static __thread char path[PATH_MAX];
  char link[64];
  int before = errno;
  if (file == log_file || !getenv("RECORD_OF")) return NULL;
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t length = readlink(link, path, sizeof path - 1);
  errno = before;
  if (length < 0) return NULL;
  path[length] = 0;
  return ours(path);
}

#define REAL(result, name, ...)                                                    \
  static result (*real)(__VA_ARGS__);                                              \
  if (!real) real = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name);

ssize_t pwrite64(int file, const void *data, size_t length, off64_t offset) {
  REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t)
  const char *name = name_of(file);
  if (name) record('W', name, (uint64_t)offset, data, length);
  return real(file, data, length, offset);
}

ssize_t pwrite(int file, const void *data, size_t length, off_t offset) {
  return pwrite64(file, data, length, offset);
}

ssize_t write(int file, const void *data, size_t length) {
  REAL(ssize_t, "write", int, const void *, size_t)
  const char *name = name_of(file);
  if (name) record('W', name, (uint64_t)lseek(file, 0, SEEK_CUR), data, length);
  return real(file, data, length);
}

int ftruncate64(int file, off64_t size) {
  REAL(int, "ftruncate64", int, off64_t)
  const char *name = name_of(file);
  if (name) record('T', name, (uint64_t)size, NULL, 0);
  return real(file, size);
}

int ftruncate(int file, off_t size) { return ftruncate64(file, size); }

static int synced(int (*real)(int), int file) {
  const char *name = name_of(file);
  if (name) record('B', name, 0, NULL, 0);
  int result = real(file);
  if (name && !result) record('E', name, 0, NULL, 0);
  return result;
}

int fsync(int file) {
  REAL(int, "fsync", int)
  return synced(real, file);
}

int fdatasync(int file) {
  REAL(int, "fdatasync", int)
  return synced(real, file);
}

int unlink(const char *path) {
  REAL(int, "unlink", const char *)
  const char *name = ours(path);
  if (name) record('U', name, 0, NULL, 0);
  return real(path);
}
