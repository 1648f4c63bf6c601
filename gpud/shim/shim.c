/*
 * Holds a container's command back until gpud lets it go.
 *
 *   gpud-shim DIR COMMAND [ARGUMENT...]
 *
 * DIR is a bind mount with a FIFO `go`. One byte in it is the trigger: the shim reads DIR/env (entries
 * NAME=VALUE, each ended by a NUL), puts them into the environment and executes the command, which is
 * searched for in PATH as the engine's own init would. From then on nothing of the shim is left in the
 * process: same pid, same parent, no open file, default signal actions.
 *
 * As process 1 (a container without an init) it stays, and does an init's duties: it runs the command as
 * its child, hands on every signal, reaps whatever is orphaned, and ends as the command ended: with its
 * exit code, or with 128 + N when signal N ended it.
 *
 * While it waits, SIGTERM, SIGINT, SIGHUP and SIGQUIT end it as they end any program.
 * Exit codes of its own: 126 when the command cannot be executed, 127 when it is not found (as shells and
 * the engine's init say it), 125 when DIR cannot be used.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { EXIT_UNUSABLE = 125, EXIT_NOT_EXECUTABLE = 126, EXIT_NOT_FOUND = 127, PATH_BYTES = 4096 };

static void die(const char *what, const char *which, int code) {
  fprintf(stderr, "gpud-shim: %s %s: %s\n", what, which, strerror(errno));
  _exit(code);
}

static int open_in(const char *dir, const char *name, int flags) {
  char path[PATH_BYTES];
  int length = snprintf(path, sizeof path, "%s/%s", dir, name);
  if (length < 0 || (size_t)length >= sizeof path) {
    errno = ENAMETOOLONG;
    return -1;
  }
  return open(path, flags | O_CLOEXEC);
}

/* Process 1 gets only signals it has a handler for: without these a waiting container could not be stopped. */
static void quit(int signum) { _exit(128 + signum); }

static void quit_on_signals(void) {
  static const int ending[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT};
  for (size_t i = 0; i < sizeof ending / sizeof *ending; i++) {
    struct sigaction action = {.sa_handler = quit};
    sigaction(ending[i], &action, NULL);
  }
}

static void default_signals(void) {
  static const int ending[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT};
  for (size_t i = 0; i < sizeof ending / sizeof *ending; i++) {
    signal(ending[i], SIG_DFL);
  }
}

/* Opened for reading and writing the FIFO never shows an end of file, however often a writer comes and goes. */
static void wait_for_trigger(const char *dir) {
  int go = open_in(dir, "go", O_RDWR);
  if (go < 0) die("cannot open the trigger in", dir, EXIT_UNUSABLE);
  char byte;
  ssize_t got;
  do {
    got = read(go, &byte, 1);
  } while (got < 0 && errno == EINTR);
  if (got != 1) die("cannot read the trigger in", dir, EXIT_UNUSABLE);
  close(go);
}

/* The entries stay in memory for as long as the process: putenv keeps pointers into it. */
static void take_environment(const char *dir) {
  int file = open_in(dir, "env", O_RDONLY);
  if (file < 0) {
    if (errno == ENOENT) return;
    die("cannot open the environment in", dir, EXIT_UNUSABLE);
  }
  struct stat about;
  if (fstat(file, &about) != 0) die("cannot read the environment in", dir, EXIT_UNUSABLE);
  size_t size = (size_t)about.st_size, have = 0;
  char *entries = malloc(size + 1);
  if (entries == NULL) die("no memory for the environment in", dir, EXIT_UNUSABLE);
  while (have < size) {
    ssize_t got = read(file, entries + have, size - have);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) die("cannot read the environment in", dir, EXIT_UNUSABLE);
    have += (size_t)got;
  }
  entries[size] = '\0';
  close(file);
  for (char *entry = entries; entry < entries + size; entry += strlen(entry) + 1) {
    if (strchr(entry, '=') != NULL && putenv(entry) != 0) die("cannot set", entry, EXIT_UNUSABLE);
  }
}

static void execute(char **command) {
  execvp(command[0], command);
  die("cannot execute", command[0],
      errno == ENOENT || errno == ENOTDIR ? EXIT_NOT_FOUND : EXIT_NOT_EXECUTABLE);
}

/* Faults of the process itself are not for the child; SIGCHLD is how it tells of its end; a child's
 * SIGTTIN and SIGTTOU would stop the init, which never touches the terminal. */
static void handed_on(sigset_t *set) {
  static const int own[] = {SIGFPE, SIGILL, SIGSEGV, SIGBUS, SIGABRT, SIGTRAP, SIGSYS, SIGTTIN, SIGTTOU};
  sigfillset(set);
  for (size_t i = 0; i < sizeof own / sizeof *own; i++) sigdelset(set, own[i]);
}

static int as_init(char **command) {
  sigset_t all, before;
  handed_on(&all);
  sigprocmask(SIG_SETMASK, &all, &before);
  default_signals();
  pid_t child = fork();
  if (child < 0) die("cannot fork for", command[0], EXIT_UNUSABLE);
  if (child == 0) {
    sigprocmask(SIG_SETMASK, &before, NULL);
    setpgid(0, 0);
    execute(command);
  }
  for (;;) {
    siginfo_t told;
    int signum = sigwaitinfo(&all, &told);
    if (signum < 0) continue;
    if (signum != SIGCHLD) {
      kill(child, signum);
      continue;
    }
    int status, ended = -1;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
      if (pid == child) ended = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    }
    if (ended >= 0) return ended;
  }
}

int main(int argc, char **argv) {
  if (argc < 3) {
    fprintf(stderr, "usage: %s DIR COMMAND [ARGUMENT...]\n", argc > 0 ? argv[0] : "gpud-shim");
    return EXIT_UNUSABLE;
  }
  int is_init = getpid() == 1;
  if (is_init) quit_on_signals();
  wait_for_trigger(argv[1]);
  take_environment(argv[1]);
  if (is_init) return as_init(argv + 2);
  execute(argv + 2);
}
