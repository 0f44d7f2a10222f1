/* A stand-in for libcuda.so.1 that computes nothing: it holds memory, copies, and takes time where a kernel would.
 *
 * It writes every launch and every copy to the file named by CUDA_STUB_CALLS, with what it was given, so that a test
 * sees whether the arguments arrive. With CUDA_STUB_FAIL=FUNCTION that function gives 2, out of memory.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FAIL(name) do { const char *f_ = getenv("CUDA_STUB_FAIL"); if (f_ && !strcmp(f_, name)) return 2; } while (0)

static void say(const char *text, unsigned long long one, unsigned long long two, unsigned long long three) {
    FILE *file = fopen(getenv("CUDA_STUB_CALLS"), "a");
    if (!file) return;
    fprintf(file, "%s %llu %llu %llu\n", text, one, two, three);
    fclose(file);
}

int cuInit(unsigned flags) { return flags ? 1 : 0; }
int cuDeviceGetByPCIBusId(int *device, const char *bus) { *device = 0; return strncmp(bus, "00000000:18", 11) ? 101 : 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)1; return device; }
int cuDevicePrimaryCtxRelease_v2(int device) { return device; }
int cuCtxSetCurrent(void *context) { return context == (void *)1 ? 0 : 201; }
int cuCtxSynchronize(void) { return 0; }
int cuGetErrorName(int code, const char **name) { *name = code == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR"; return 0; }

int cuModuleLoadData(void **module, const char *text) {
    *module = (void *)2;
    return strstr(text, ".entry spin") && strstr(text, ".entry multiply") ? 0 : 200;
}

int cuModuleGetFunction(void **function, void *module, const char *name) {
    if (module != (void *)2) return 400;
    *function = strcmp(name, "spin") ? strcmp(name, "multiply") ? NULL : (void *)4 : (void *)3;
    return *function ? 0 : 500;
}

/* Memory of the stand-in is an address and nothing more: a test must not need four GiB. */
int cuMemAlloc_v2(uint64_t *address, size_t size) {
    FAIL("cuMemAlloc_v2");
    *address = 0x700000000000u;
    say("alloc", size, 0, 0);
    return 0;
}
int cuMemFree_v2(uint64_t address) { return address == 0x700000000000u ? 0 : 1; }
int cuMemsetD32_v2(uint64_t address, unsigned value, size_t count) { say("set", address, value, count); return 0; }
int cuMemAllocHost_v2(void **address, size_t size) { *address = (void *)0x1000; say("pinned", size, 0, 0); return 0; }
int cuMemFreeHost(void *address) { return address == (void *)0x1000 ? 0 : 1; }

int cuMemcpyHtoD_v2(uint64_t target, const void *source, size_t size) {
    usleep(50000);
    say("to", target, (uintptr_t)source, size);
    return 0;
}

int cuMemcpyDtoH_v2(void *target, uint64_t source, size_t size) {
    usleep(50000);
    say("from", (uintptr_t)target, source, size);
    return 0;
}

int cuLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned tx, unsigned ty, unsigned tz,
                   unsigned shared, void *stream, void **arguments, void **extra) {
    FAIL("cuLaunchKernel");
    if (!z || !tz || shared || stream || extra) return 1;
    if (function == (void *)3) say("spin", *(uint64_t *)arguments[0], x * y, tx * ty);
    else say("multiply", *(uint64_t *)arguments[2], *(unsigned *)arguments[3], (unsigned long long)x * y * tx * ty);
    usleep(100000);
    return 0;
}
