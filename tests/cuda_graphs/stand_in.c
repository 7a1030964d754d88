/* A stand-in for CUDA's libraries: device memory is the host's, nothing is computed, and what is called during a
   capture is written down. It answers as a GPU of compute capability 9.0. Prototypes name only the arguments used. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int capturing;
char captured[1 << 22]; /* a name and a line feed for each call */
static size_t written;

static int note(const char *call) {
    size_t length = strlen(call);
    if (capturing && written + length + 2 < sizeof captured) {
        written += sprintf(captured + written, "%s\n", call);
    }
    return 0;
}

const char *stand_in_captured(void) { return captured; }
void stand_in_forget(void) { captured[written = 0] = 0; }

/* Devices. The offsets are those of cudaDeviceProp in CUDA 13. */
static void set(char *properties, size_t offset, int value) { memcpy(properties + offset, &value, sizeof value); }
int cudaGetDeviceCount(int *count) { *count = 1; return 0; }
int cudaGetDevice(int *device) { *device = 0; return 0; }
int cudaGetDeviceProperties(char *properties, int device) {
    size_t memory = 1ull << 36;
    memset(properties, 0, 1008);
    memcpy(properties + 288, &memory, sizeof memory);
    set(properties, 296, 49152);      /* shared memory of a block */
    set(properties, 308, 32);         /* threads of a warp */
    set(properties, 320, 1024);       /* threads of a block */
    set(properties, 336, 2147483647); /* blocks of a grid */
    set(properties, 340, 65535);
    set(properties, 344, 65535);
    set(properties, 360, 9);          /* compute capability */
    set(properties, 384, 132);        /* multiprocessors */
    set(properties, 604, 2048);       /* threads of a multiprocessor */
    set(properties, 672, 232448);     /* shared memory of a block, at most */
    return 0;
}
int cudaDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 9 : attribute == 76 ? 0 : attribute == 16 ? 132 : attribute == 10 ? 32 : 1024;
    return 0;
}
int cudaMemGetInfo(size_t *unused, size_t *total) { *unused = *total = 1ull << 36; return 0; }
int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cudaDriverGetVersion(int *version) { *version = 13000; return 0; }
int cudaRuntimeGetVersion(int *version) { *version = 13000; return 0; }
const char *cudaGetErrorName(int error) { return "error"; }
const char *cudaGetErrorString(int error) { return "error"; }

/* Memory. */
static int allocate(void **at, size_t bytes, const char *call) { *at = calloc(1, bytes); return note(call); }
int cudaMalloc(void **at, size_t bytes) { return allocate(at, bytes, "cudaMalloc"); }
int cudaMallocHost(void **at, size_t bytes) { return allocate(at, bytes, "cudaMallocHost"); }
int cudaHostAlloc(void **at, size_t bytes, unsigned flags) { return allocate(at, bytes, "cudaHostAlloc"); }
int cudaFree(void *at) { free(at); return note("cudaFree"); }
int cudaFreeHost(void *at) { free(at); return note("cudaFreeHost"); }
int cudaHostRegister(void *at, size_t bytes, unsigned flags) { return note("cudaHostRegister"); }
int cudaHostUnregister(void *at) { return note("cudaHostUnregister"); }
static int copy(void *to, const void *from, size_t bytes, int kind, const char *call) {
    static const char *ways[] = {"host to host", "host to device", "device to host", "device to device", "default"};
    char described[64];
    memmove(to, from, bytes);
    sprintf(described, "%s %s", call, ways[kind]);
    return note(described);
}
int cudaMemcpy(void *to, const void *from, size_t bytes, int kind) { return copy(to, from, bytes, kind, "cudaMemcpy"); }
int cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind) {
    return copy(to, from, bytes, kind, "cudaMemcpyAsync");
}
int cudaMemset(void *at, int value, size_t bytes) { memset(at, value, bytes); return note("cudaMemset"); }
int cudaMemsetAsync(void *at, int value, size_t bytes) { memset(at, value, bytes); return note("cudaMemsetAsync"); }
int cudaPointerGetAttributes(int *attributes) { memset(attributes, 0, 32); attributes[0] = 2; return 0; }

/* Streams, captures and launches. */
int cudaStreamSynchronize(void *stream) { return note("cudaStreamSynchronize"); }
int cudaDeviceSynchronize(void) { return note("cudaDeviceSynchronize"); }
int cudaEventSynchronize(void *event) { return note("cudaEventSynchronize"); }
int cudaLaunchHostFunc(void *stream, void (*function)(void *), void *with) {
    function(with);
    return note("cudaLaunchHostFunc");
}
int cudaStreamIsCapturing(void *stream, int *status) { *status = capturing; return 0; }
int cudaStreamBeginCapture(void *stream, int mode) { capturing = 1; return note("capture"); }
int cudaStreamEndCapture(void *stream, void **graph) { capturing = 0; *graph = calloc(1, 64); return 0; }
int cudaGraphInstantiate(void **executable) { *executable = calloc(1, 64); return 0; }
int cudaFuncGetAttributes(char *attributes) {
    memset(attributes, 0, 64);
    set(attributes, 24, 1024); /* threads of a block */
    set(attributes, 32, 90);   /* versions of the code */
    set(attributes, 36, 90);
    return 0;
}
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks) { *blocks = 2; return 0; }
int __cudaGetKernel(const void **kernel, const void *function) { *kernel = function; return 0; }
int cublasLtMatmulAlgoGetHeuristic(void *a, void *b, void *c, void *d, void *e, void *f, void *g, int most, void *found,
                                   int *count) {
    *count = 1;
    return 0;
}
int cudnnGetReductionWorkspaceSize(void *a, void *b, void *c, void *d, size_t *bytes) { *bytes = 256; return 0; }
int cudnnGetReductionIndicesSize(void *a, void *b, void *c, void *d, size_t *bytes) { *bytes = 256; return 0; }
