/* A stand-in for libnvidia-ml.so.1 that fails on request.
 *
 * It mirrors the structures that nvidia-ml-py passes and nothing else. What it answers is read anew at every call
 * from the file named by NVML_STUB_CONFIG, so that a test can break a driver while the agent runs. One rule a line,
 * the last one that fits wins; GPU -1 stands for every GPU and for calls without one:
 *
 *     gpus N                      visible GPUs (default 1)
 *     code FUNCTION GPU CODE      FUNCTION returns CODE
 *     delay FUNCTION GPU MS       FUNCTION sleeps first
 *     hang FUNCTION GPU 0         FUNCTION never comes back
 *     value NAME GPU NUMBER       a measured value; the names are in the functions below
 *     lost_after GPU CALLS        after that many calls on it the GPU is lost (15)
 *
 * Every call is appended to the file named by NVML_STUB_CALLS. Compiled with -DOLD_DRIVER the newer symbols are
 * missing. After a fork the child inherits a dead session: every call gives 999 until it is shut down and opened.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GPUS 128
#define ANY (-1)
enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID = 2, INSUFFICIENT_SIZE = 7, LOST = 15, UNKNOWN_ERROR = 999 };

typedef struct { int index; } device_t;
static device_t devices[GPUS];
static long calls_on[GPUS];
static int sessions;
static pid_t owner;

static FILE *configuration(void) {
    const char *path = getenv("NVML_STUB_CONFIG");
    return path ? fopen(path, "r") : NULL;
}

/* The number of the last line "word name gpu number" that fits; fallback when there is none. */
static double rule(const char *word, const char *name, int gpu, double fallback) {
    char line[256], found_word[32], found_name[128];
    double number, result = fallback;
    int found_gpu;
    FILE *file = configuration();
    if (!file) return fallback;
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "%31s %127s %d %lf", found_word, found_name, &found_gpu, &number) == 4 &&
            !strcmp(found_word, word) && !strcmp(found_name, name) && (found_gpu == ANY || found_gpu == gpu))
            result = number;
    fclose(file);
    return result;
}

/* The number of the last line "word key number"; key is ANY for lines without one ("gpus 4"). */
static long counted(const char *word, int key, long fallback) {
    char line[256], found[32];
    long first, second, result = fallback;
    FILE *file = configuration();
    if (!file) return fallback;
    while (fgets(line, sizeof line, file)) {
        int got = sscanf(line, "%31s %ld %ld", found, &first, &second);
        if (got < 2 || strcmp(found, word)) continue;
        if (key == ANY) result = first;
        else if (got == 3 && first == key) result = second;
    }
    fclose(file);
    return result;
}

static int enter(const char *name, int gpu) {
    const char *log = getenv("NVML_STUB_CALLS");
    if (log) {
        FILE *file = fopen(log, "a");
        if (file) { fprintf(file, "%s %d\n", name, gpu); fclose(file); }
    }
    long delay = (long)rule("delay", name, gpu, 0);
    if (delay) usleep((useconds_t)(delay * 1000));
    while (rule("hang", name, gpu, -1) >= 0) usleep(20000); /* until the rule is taken away */
    int code = (int)rule("code", name, gpu, SUCCESS);
    if (code) return code;
    if (strncmp(name, "nvmlInit", 8) && strcmp(name, "nvmlShutdown")) {
        if (!sessions) return UNINITIALIZED;
        if (owner != getpid()) return UNKNOWN_ERROR;
    }
    if (gpu >= 0 && ++calls_on[gpu] > counted("lost_after", gpu, 1L << 40)) return LOST;
    return SUCCESS;
}

#define ENTER(gpu) do { int code_ = enter(__func__, gpu); if (code_) return code_; } while (0)
#define ON(device) (((device_t *)(device))->index)
#define VALUE(name, fallback) rule("value", name, ON(device), fallback)

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    ENTER(ANY);
    if (sessions++ == 0) owner = getpid();
    return SUCCESS;
}

int nvmlShutdown(void) {
    ENTER(ANY);
    if (!sessions) return UNINITIALIZED;
    sessions--;
    return SUCCESS;
}

int nvmlSystemGetDriverVersion(char *text, unsigned length) {
    ENTER(ANY);
    snprintf(text, length, "590.48.01");
    return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    ENTER(ANY);
    *count = (unsigned)counted("gpus", ANY, 1);
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    if (index >= GPUS) return INVALID;
    ENTER((int)index);
    devices[index].index = (int)index;
    *device = &devices[index];
    return SUCCESS;
}

int nvmlDeviceGetUUID(void *device, char *text, unsigned length) {
    ENTER(ON(device));
    snprintf(text, length, "GPU-%08d-0000-4000-8000-%012d", ON(device), (int)VALUE("identity", ON(device)));
    return SUCCESS;
}

int nvmlDeviceGetName(void *device, char *text, unsigned length) {
    ENTER(ON(device));
    snprintf(text, length, "NVIDIA H100 80GB HBM3");
    return SUCCESS;
}

typedef struct {
    char legacy[16];
    unsigned domain, bus, device, identity, subsystem;
    char bus_id[32];
} pci_t;

int nvmlDeviceGetPciInfo_v3(void *device, pci_t *pci) {
    ENTER(ON(device));
    memset(pci, 0, sizeof *pci);
    snprintf(pci->bus_id, sizeof pci->bus_id, "00000000:%02X:00.0", 0x18 + ON(device));
    return SUCCESS;
}

typedef struct { uint64_t total, free, used; } memory_t;

int nvmlDeviceGetMemoryInfo(void *device, memory_t *memory) {
    ENTER(ON(device));
    memory->total = (uint64_t)VALUE("memory_total", 85520809984.0);
    memory->used = (uint64_t)VALUE("memory_used", 0);
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

typedef struct { unsigned gpu, memory; } utilization_t;

int nvmlDeviceGetUtilizationRates(void *device, utilization_t *rates) {
    ENTER(ON(device));
    rates->gpu = (unsigned)VALUE("utilization", 0);
    rates->memory = (unsigned)VALUE("memory_utilization", 0);
    return SUCCESS;
}

int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) {
    ENTER(ON(device));
    *milliwatts = (unsigned)VALUE("power", 77700);
    return SUCCESS;
}

int nvmlDeviceGetEnforcedPowerLimit(void *device, unsigned *milliwatts) {
    ENTER(ON(device));
    *milliwatts = (unsigned)VALUE("power_limit", 700000);
    return SUCCESS;
}

int nvmlDeviceGetTotalEnergyConsumption(void *device, uint64_t *millijoules) {
    ENTER(ON(device));
    double value = VALUE("energy", 1000);
    *millijoules = value < 0 ? UINT64_MAX : (uint64_t)value;
    return SUCCESS;
}

int nvmlDeviceGetTemperature(void *device, unsigned sensor, unsigned *celsius) {
    ENTER(ON(device));
    if (sensor) return INVALID;
    *celsius = (unsigned)VALUE("temperature", 31);
    return SUCCESS;
}

int nvmlDeviceGetClockInfo(void *device, unsigned type, unsigned *megahertz) {
    ENTER(ON(device));
    if (type != 1) return INVALID; /* 1 is the SM clock */
    *megahertz = (unsigned)VALUE("clock", 345);
    return SUCCESS;
}

typedef struct { unsigned pid; uint64_t memory; unsigned gpu_instance, compute_instance; } process_t;

static int processes(void *device, unsigned *count, process_t *list) {
    unsigned running = (unsigned)VALUE("processes", 0), room = *count;
    *count = running;
    if (!running) return SUCCESS;
    if (!list || room < running) return INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < running; i++)
        list[i] = (process_t){1000 + i, UINT64_MAX, UINT32_MAX, UINT32_MAX}; /* memory: all ones, not available */
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v2(void *device, unsigned *count, process_t *list) {
    ENTER(ON(device));
    return processes(device, count, list);
}

#ifndef OLD_DRIVER
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, process_t *list) {
    ENTER(ON(device));
    return processes(device, count, list);
}

typedef struct { unsigned version; uint64_t total, reserved, free, used; } memory_v2_t;

int nvmlDeviceGetMemoryInfo_v2(void *device, memory_v2_t *memory) {
    ENTER(ON(device));
    if (memory->version != 0x02000028) return 25;
    memory->total = (uint64_t)VALUE("memory_total", 85520809984.0);
    memory->reserved = (uint64_t)VALUE("memory_reserved", 600000000.0);
    memory->used = (uint64_t)VALUE("memory_used", 0);
    memory->free = memory->total - memory->used - memory->reserved;
    return SUCCESS;
}

typedef struct { unsigned version, sensor; int celsius; } temperature_t;

int nvmlDeviceGetTemperatureV(void *device, temperature_t *temperature) {
    ENTER(ON(device));
    if (temperature->version != 0x100000C) return 25;
    temperature->celsius = (int)VALUE("temperature", 31);
    return SUCCESS;
}

int nvmlDeviceGetMigMode(void *device, unsigned *current, unsigned *pending) {
    ENTER(ON(device));
    *current = *pending = (unsigned)VALUE("mig", 0);
    return SUCCESS;
}
#endif
