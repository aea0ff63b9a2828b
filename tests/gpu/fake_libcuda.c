/* A test double of NVIDIA's driver, and of nothing else: it computes nothing and is no GPU. Just enough of the driver API for
 * sage's own calls, so that streams, copies, events, graphs and partitions run in tests without a device. What is queued is done
 * at once on the host; an event is seen as not yet passed a few times, as on a real device. Every handle and every address is
 * checked: a dead handle, a copy outside its buffer or a leak ends the program or is written to FAKE_CUDA_LEDGER at exit.
 * built by tests/gpu_double/mod.rs:  cc -shared -fPIC -o libcuda.so.1 fake_libcuda.c */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef int result;
typedef uint64_t address;
enum { GOOD = 0, INVALID = 1, TOO_MUCH = 2, NOT_READY = 600 };
#define API __attribute__((visibility("default")))

static void wrong(const char *what, const char *where) {
  fprintf(stderr, "fake cuda: %s in %s\n", what, where);
  abort();
}

/* Handles: each kind has its own mark; a destroyed one loses it and is never freed, so that its later use is seen. */
enum kind { STREAM = 0x5712, EVENT = 0x5713, GRAPH = 0x5714, EXECUTABLE = 0x5715, LIBRARY = 0x5716, GREEN = 0x5717 };
static const char *names[] = {"streams", "events", "graphs", "executables", "libraries", "partitions"};
static long made[6], gone[6];

enum what { COPY, ROWS, FILL, RECORD, KERNEL, CALL };
struct op {
  enum what what;
  char *to, *from;
  size_t bytes, rows, to_pitch, from_pitch;
  unsigned char value;
  struct handle *event;
  void (*call)(void *);
  void *argument;
};
struct handle {
  enum kind kind;
  int capturing, unseen;
  double at;
  struct op *ops;
  size_t count;
};

static struct handle *make(enum kind kind) {
  struct handle *h = calloc(1, sizeof *h);
  h->kind = kind;
  made[kind - STREAM]++;
  return h;
}
static struct handle *is(void *p, enum kind kind, const char *where) {
  struct handle *h = p;
  if (!h || h->kind != kind) wrong("a handle that is not alive", where);
  return h;
}
static result destroy(void *p, enum kind kind, const char *where) {
  is(p, kind, where)->kind = 0;
  gone[kind - STREAM]++;
  return GOOD;
}

/* Memory. */
struct block { char *at; size_t bytes; int host; };
static struct block blocks[65536];
static size_t blocks_in_use;
static long memory_made, memory_gone;
static result allocate(void **to, size_t bytes, int host) {
  size_t i = 0;
  while (i < blocks_in_use && blocks[i].at) i++;
  if (i == sizeof blocks / sizeof *blocks) return TOO_MUCH;
  char *at = bytes > ((size_t)1 << 33) ? NULL : aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (!at) return TOO_MUCH;
  memset(at, 0xA5, bytes); /* nobody may count on zeros */
  blocks[i] = (struct block){at, bytes, host};
  if (i == blocks_in_use) blocks_in_use++;
  memory_made++;
  *to = at;
  return GOOD;
}
static result release(void *p, int host, const char *where) {
  for (size_t i = 0; i < blocks_in_use; i++)
    if (blocks[i].at == p && p && blocks[i].host == host) {
      free(p);
      blocks[i].at = NULL;
      memory_gone++;
      return GOOD;
    }
  wrong("memory that is not allocated", where);
  return INVALID;
}
static void within(const void *p, size_t bytes, int host, const char *where) {
  const char *c = p;
  for (size_t i = 0; i < blocks_in_use; i++)
    if (blocks[i].at && blocks[i].host == host && c >= blocks[i].at && c + bytes <= blocks[i].at + blocks[i].bytes) return;
  wrong("an address outside every buffer of its side", where);
}

/* Work: done at once, or kept while the stream is being recorded. */
static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}
static void perform(const struct op *op) {
  switch (op->what) {
    case COPY: memcpy(op->to, op->from, op->bytes); break;
    case ROWS:
      for (size_t r = 0; r < op->rows; r++) memcpy(op->to + r * op->to_pitch, op->from + r * op->from_pitch, op->bytes);
      break;
    case FILL: memset(op->to, op->value, op->bytes); break;
    case RECORD: op->event->unseen = 3; op->event->at = now(); break;
    case KERNEL: break;
    case CALL: op->call(op->argument); break;
  }
}
static result queue(void *stream, struct op op, const char *where) {
  struct handle *s = is(stream, STREAM, where);
  if (!s->capturing) { perform(&op); return GOOD; }
  s->ops = realloc(s->ops, (s->count + 1) * sizeof *s->ops);
  s->ops[s->count++] = op;
  return GOOD;
}

API result cuInit(unsigned flags) { return flags ? INVALID : GOOD; }
API result cuDriverGetVersion(int *v) { *v = 13000; return GOOD; }
API result cuDeviceGetCount(int *n) { *n = 1; return GOOD; }
API result cuDeviceGet(int *d, int n) { *d = n; return n ? INVALID : GOOD; }
API result cuDeviceGetName(char *name, int size, int d) { (void)d; snprintf(name, size, "test double of the driver, no GPU"); return GOOD; }
API result cuDeviceTotalMem_v2(size_t *n, int d) { (void)d; *n = (size_t)1 << 28; return GOOD; }
API result cuDeviceGetAttribute(int *v, int which, int d) {
  (void)d;
  *v = which == 75 ? 8 : which == 76 ? 9 : which == 16 ? 4 : which == 13 ? 1000000 : 0;
  return GOOD;
}
static int context, contexts;
API result cuDevicePrimaryCtxRetain(void **c, int d) { (void)d; contexts++; *c = &context; return GOOD; }
API result cuDevicePrimaryCtxRelease_v2(int d) { (void)d; if (--contexts < 0) wrong("a context released too often", __func__); return GOOD; }
API result cuCtxSetCurrent(void *c) { if (c != &context || !contexts) wrong("a context that is not retained", __func__); return GOOD; }
API result cuCtxSynchronize(void) { return GOOD; }
API result cuCtxGetStreamPriorityRange(int *lowest, int *highest) { *lowest = 0; *highest = -5; return GOOD; }
API result cuMemGetInfo_v2(size_t *free, size_t *total) { *free = (size_t)1 << 27; *total = (size_t)1 << 28; return GOOD; }
API result cuGetErrorName(int e, const char **s) { (void)e; *s = "FAKE"; return GOOD; }
API result cuGetErrorString(int e, const char **s) { (void)e; *s = "fake"; return GOOD; }

API result cuMemAlloc_v2(address *p, size_t n) { void *at; result r = allocate(&at, n, 0); *p = (address)at; return r; }
API result cuMemFree_v2(address p) { return release((void *)p, 0, __func__); }
API result cuMemHostAlloc(void **p, size_t n, unsigned flags) { (void)flags; return allocate(p, n, 1); }
API result cuMemFreeHost(void *p) { return release(p, 1, __func__); }

API result cuMemcpyHtoDAsync_v2(address to, const void *from, size_t n, void *s) {
  within((void *)to, n, 0, __func__); within(from, n, 1, __func__);
  return queue(s, (struct op){.what = COPY, .to = (char *)to, .from = (char *)from, .bytes = n}, __func__);
}
API result cuMemcpyDtoHAsync_v2(void *to, address from, size_t n, void *s) {
  within(to, n, 1, __func__); within((void *)from, n, 0, __func__);
  return queue(s, (struct op){.what = COPY, .to = to, .from = (char *)from, .bytes = n}, __func__);
}
API result cuMemcpyDtoDAsync_v2(address to, address from, size_t n, void *s) {
  within((void *)to, n, 0, __func__); within((void *)from, n, 0, __func__);
  return queue(s, (struct op){.what = COPY, .to = (char *)to, .from = (char *)from, .bytes = n}, __func__);
}
struct copy_2d {
  size_t from_x, from_y; int from_kind; const void *from_host; address from; void *from_array; size_t from_pitch;
  size_t to_x, to_y; int to_kind; void *to_host; address to; void *to_array; size_t to_pitch;
  size_t width, height;
};
API result cuMemcpy2DAsync_v2(const struct copy_2d *c, void *s) {
  if (c->from_kind != 2 || c->to_kind != 2 || c->from_x || c->from_y || c->to_x || c->to_y) wrong("another kind of copy", __func__);
  within((void *)c->from, (c->height - 1) * c->from_pitch + c->width, 0, __func__);
  within((void *)c->to, (c->height - 1) * c->to_pitch + c->width, 0, __func__);
  return queue(s, (struct op){.what = ROWS, .to = (char *)c->to, .from = (char *)c->from, .bytes = c->width, .rows = c->height,
                              .to_pitch = c->to_pitch, .from_pitch = c->from_pitch}, __func__);
}
API result cuMemsetD8Async(address to, unsigned char value, size_t n, void *s) {
  within((void *)to, n, 0, __func__);
  return queue(s, (struct op){.what = FILL, .to = (char *)to, .value = value, .bytes = n}, __func__);
}

API result cuStreamCreateWithPriority(void **s, unsigned flags, int priority) {
  if (flags != 1 || priority > 0 || priority < -5) wrong("flags or a priority that do not exist", __func__);
  *s = make(STREAM);
  return GOOD;
}
API result cuStreamDestroy_v2(void *s) { return destroy(s, STREAM, __func__); }
API result cuStreamSynchronize(void *s) { if (is(s, STREAM, __func__)->capturing) wrong("waiting while recording", __func__); return GOOD; }
API result cuStreamWaitEvent(void *s, void *e, unsigned flags) { is(s, STREAM, __func__); is(e, EVENT, __func__); return flags ? INVALID : GOOD; }
API result cuStreamBeginCapture_v2(void *s, int mode) {
  struct handle *h = is(s, STREAM, __func__);
  if (h->capturing || mode != 1) wrong("recording twice, or not for this thread alone", __func__);
  h->capturing = 1; h->ops = NULL; h->count = 0;
  return GOOD;
}
API result cuStreamEndCapture(void *s, void **graph) {
  struct handle *h = is(s, STREAM, __func__), *g = make(GRAPH);
  if (!h->capturing) wrong("recording ended that had not begun", __func__);
  h->capturing = 0; g->ops = h->ops; g->count = h->count;
  *graph = g;
  return GOOD;
}
API result cuEventCreate(void **e, unsigned flags) { (void)flags; *e = make(EVENT); return GOOD; }
API result cuEventDestroy_v2(void *e) { return destroy(e, EVENT, __func__); }
API result cuEventRecord(void *e, void *s) { return queue(s, (struct op){.what = RECORD, .event = is(e, EVENT, __func__)}, __func__); }
API result cuEventQuery(void *e) { struct handle *h = is(e, EVENT, __func__); return h->unseen && h->unseen-- ? NOT_READY : GOOD; }
API result cuEventSynchronize(void *e) { is(e, EVENT, __func__)->unseen = 0; return GOOD; }
API result cuEventElapsedTime_v2(float *ms, void *from, void *to) {
  double span = is(to, EVENT, __func__)->at - is(from, EVENT, __func__)->at;
  *ms = span > 0.001 ? span : 0.001;
  return GOOD;
}
API result cuGraphInstantiateWithFlags(void **x, void *graph, unsigned long long flags) {
  struct handle *g = is(graph, GRAPH, __func__), *e = make(EXECUTABLE);
  e->ops = g->ops; e->count = g->count;
  *x = e;
  return flags ? INVALID : GOOD;
}
API result cuGraphLaunch(void *x, void *s) {
  struct handle *e = is(x, EXECUTABLE, __func__);
  for (size_t i = 0; i < e->count; i++) queue(s, e->ops[i], __func__);
  return GOOD;
}
API result cuGraphExecDestroy(void *x) { return destroy(x, EXECUTABLE, __func__); }
API result cuGraphDestroy(void *g) { return destroy(g, GRAPH, __func__); }

static int kernel;
API result cuLibraryLoadData(void **l, const void *code, void *a, void *b, unsigned c, void *d, void *e, unsigned f) {
  (void)a; (void)b; (void)c; (void)d; (void)e; (void)f;
  if (!strstr(code, ".visible .entry sweep(")) return INVALID;
  *l = make(LIBRARY);
  return GOOD;
}
API result cuLibraryGetKernel(void **k, void *l, const char *name) { is(l, LIBRARY, __func__); *k = &kernel; return strcmp(name, "sweep") ? INVALID : GOOD; }
API result cuLibraryUnload(void *l) { return destroy(l, LIBRARY, __func__); }
API result cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                          void *s, void **arguments, void **extra) {
  if (f != &kernel || !gx || gy != 1 || gz != 1 || bx != 256 || by != 1 || bz != 1 || shared || extra) wrong("another launch", __func__);
  within(*(void **)arguments[0], 16 * *(uint64_t *)arguments[1], 0, __func__);
  within(*(void **)arguments[2], 4, 0, __func__);
  return queue(s, (struct op){.what = KERNEL}, __func__);
}

/* Not of the driver: the test double of TensorRT queues its work here. */
API result fake_cuda_queue(void *s, void (*call)(void *), void *argument) {
  return queue(s, (struct op){.what = CALL, .call = call, .argument = argument}, __func__);
}

/* Partitions: the count of multiprocessors lies at byte 96 of a resource of 144. */
static unsigned *processors(void *r) { return (unsigned *)((char *)r + 96); }
API result cuDeviceGetDevResource(int d, void *r, int kind) { (void)d; *(int *)r = kind; *processors(r) = 4; return kind == 1 ? GOOD : INVALID; }
API result cuDevSmResourceSplitByCount(void *r, unsigned *groups, const void *whole, void *rest, unsigned flags, unsigned least) {
  (void)flags;
  if (*groups != 1 || *(const int *)whole != 1) wrong("another division", __func__);
  if (least >= 4) { *groups = 0; return GOOD; }
  *(int *)r = *(int *)rest = 1;
  *processors(r) = least;
  *processors(rest) = 4 - least;
  return GOOD;
}
API result cuDevResourceGenerateDesc(void **desc, void *r, unsigned n) { if (n != 1 || *(int *)r != 1) wrong("another resource", __func__); *desc = r; return GOOD; }
API result cuGreenCtxCreate(void **g, void *desc, int d, unsigned flags) { (void)d; if (!desc || flags != 1) wrong("another partition", __func__); *g = make(GREEN); return GOOD; }
API result cuGreenCtxDestroy(void *g) { return destroy(g, GREEN, __func__); }
API result cuGreenCtxStreamCreate(void **s, void *g, unsigned flags, int priority) { is(g, GREEN, __func__); return cuStreamCreateWithPriority(s, flags, priority); }

__attribute__((destructor)) static void ledger(void) {
  const char *path = getenv("FAKE_CUDA_LEDGER");
  FILE *file = path ? fopen(path, "w") : NULL;
  if (!file) return;
  for (int i = 0; i < 6; i++) fprintf(file, "%s %ld %ld\n", names[i], made[i], gone[i]);
  fprintf(file, "memory %ld %ld\ncontexts %d 0\n", memory_made, memory_gone, contexts);
  fclose(file);
}
