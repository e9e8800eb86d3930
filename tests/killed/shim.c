// Preloaded into a process: counts what it does to files below a folder, and kills it before the n-th of these.
//
// Counted: files that are opened to be made or cut, writes, renames, removals, folders made. A write that is to be the last
// one puts half of its bytes down first, as a crash may.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static long seen, last;
static char folder[1024];

void kill_before(long n, const char* below) {
  seen = 0;
  last = n;
  snprintf(folder, sizeof folder, "%s", below);
}

long operations(void) { return seen; }

static int is_below(const char* path) {
  return folder[0] && path && strncmp(path, folder, strlen(folder)) == 0;
}

static int is_file_below(int file) {
  char link[64], path[2048];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length <= 0) return 0;
  path[length] = 0;
  return is_below(path);
}

static int is_at_below(int parent, const char* path) {
  return path && (path[0] == '/' ? is_below(path) : folder[0] && parent >= 0 && is_file_below(parent));
}

static void count(void) {
  if (++seen == last) kill(getpid(), SIGKILL);
}

#define NEXT(name) static __typeof__(name)* next; if (!next) next = (__typeof__(next))dlsym(RTLD_NEXT, #name)

ssize_t write(int file, const void* bytes, size_t size) {
  NEXT(write);
  if (folder[0] && file > 2 && is_file_below(file)) {
    if (seen + 1 == last && size > 1) next(file, bytes, size / 2);
    count();
  }
  return next(file, bytes, size);
}

#define OPEN(name)                                          \
  int name(const char* path, int flags, ...) {              \
    NEXT(name);                                             \
    va_list rest;                                           \
    va_start(rest, flags);                                  \
    int mode = va_arg(rest, int);                           \
    va_end(rest);                                           \
    if ((flags & (O_CREAT | O_TRUNC)) && is_below(path)) count(); \
    return next(path, flags, mode);                         \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                        \
  int name(int parent, const char* path, int flags, ...) {  \
    NEXT(name);                                             \
    va_list rest;                                           \
    va_start(rest, flags);                                  \
    int mode = va_arg(rest, int);                           \
    va_end(rest);                                           \
    if ((flags & (O_CREAT | O_TRUNC)) && is_at_below(parent, path)) count(); \
    return next(parent, path, flags, mode);                 \
  }
OPENAT(openat)
OPENAT(openat64)

int rename(const char* from, const char* to) {
  NEXT(rename);
  if (is_below(from) || is_below(to)) count();
  return next(from, to);
}

int renameat(int a, const char* from, int b, const char* to) {
  NEXT(renameat);
  if (is_at_below(a, from) || is_at_below(b, to)) count();
  return next(a, from, b, to);
}

int unlink(const char* path) {
  NEXT(unlink);
  if (is_below(path)) count();
  return next(path);
}

int unlinkat(int parent, const char* path, int flags) {
  NEXT(unlinkat);
  if (is_at_below(parent, path)) count();
  return next(parent, path, flags);
}

int rmdir(const char* path) {
  NEXT(rmdir);
  if (is_below(path)) count();
  return next(path);
}

int mkdir(const char* path, mode_t mode) {
  NEXT(mkdir);
  if (is_below(path)) count();
  return next(path, mode);
}
