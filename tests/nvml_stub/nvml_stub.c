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
 *     xid GPU NUMBER              one event; each such line is delivered once, in their order
 *     event GPU TYPE              one event of another type than Xids (8), as a number; delivered in the same way
 *
 * With "value mig" a GPU has "value parts" parts, whose n-th has the GPU instance n + 3.
 *
 * nvmlDeviceGetSamples has a window of 10 ms, a ring of "value samples" (100) windows, all at "value utilization", but the
 * oldest that is new at "value sample_burst" and the newest at "value sample_last"; none new is 6. A process has the pid
 * "value first_pid" (1000) and on, "value process_memory" (below zero: all ones) and "value process_sm" per cent, and the
 * first "value mps" of them are below MPS; "value process_samples" says how many of them were busy.
 *
 * A field of nvmlDeviceGetFieldValues is "value field_N": below zero means that the GPU does not have it (3). GPM says
 * what "value gpm_N" says, N being the number of the metric, of two samples of one GPU at least 100 ms apart.
 *
 * Every call is appended to the file named by NVML_STUB_CALLS. Compiled with -DOLD_DRIVER the newer symbols are
 * missing. After a fork the child inherits a dead session: every call gives 999 until it is shut down and opened.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define GPUS 128
#define ANY (-1)
enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID = 2, INSUFFICIENT_SIZE = 7, LOST = 15, UNKNOWN_ERROR = 999 };

typedef struct { int index, part; } device_t; /* part 0 is the whole GPU, n + 1 its n-th part */
#define PARTS 7
static device_t devices[GPUS];
#ifndef OLD_DRIVER
static device_t parts[GPUS][PARTS];
#endif
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
    int part = ((device_t *)device)->part, identity = (int)VALUE("identity", ON(device));
    if (part) snprintf(text, length, "MIG-%08d-%04d-5000-8000-%012d", ON(device), part - 1, identity);
    else snprintf(text, length, "GPU-%08d-0000-4000-8000-%012d", ON(device), identity);
    return SUCCESS;
}

int nvmlDeviceGetName(void *device, char *text, unsigned length) {
    ENTER(ON(device));
    int part = ((device_t *)device)->part;
    snprintf(text, length, "NVIDIA H100 80GB HBM3%s", part ? " MIG 1g.10gb" : "");
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
    int part = ((device_t *)device)->part;
    memory->total = (uint64_t)(part ? 10468982784.0 : VALUE("memory_total", 85520809984.0));
    memory->used = (uint64_t)(part ? VALUE("part_memory_used", 0) : VALUE("memory_used", 0));
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

typedef struct { uint64_t stamp; union { double number; unsigned small; uint64_t large; } value; } window_t;

static uint64_t microseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

int nvmlDeviceGetSamples(void *device, unsigned kind, uint64_t last, unsigned *type, unsigned *count, window_t *list) {
    ENTER(ON(device));
    if (kind != 1) return INVALID;
#ifndef OLD_DRIVER
    if (VALUE("mig", 0)) return 3;
#endif
    const uint64_t window = 10000, newest = microseconds() / window * window;
    uint64_t ring = (uint64_t)VALUE("samples", 100), fresh = newest > last ? (newest - last) / window : 0;
    if (fresh > ring) fresh = ring;
    if (!fresh) return 6;
    *type = 1;
    if (!list) { *count = (unsigned)fresh; return SUCCESS; }
    if (fresh > *count) fresh = *count;
    unsigned usual = (unsigned)VALUE("utilization", 0);
    for (uint64_t i = 0; i < fresh; i++) {
        list[i].stamp = newest - (fresh - 1 - i) * window;
        list[i].value.small = usual;
    }
    if (VALUE("sample_burst", -1) >= 0) list[0].value.small = (unsigned)VALUE("sample_burst", 0);
    if (VALUE("sample_last", -1) >= 0) list[fresh - 1].value.small = (unsigned)VALUE("sample_last", 0);
    *count = (unsigned)fresh;
    return SUCCESS;
}

int nvmlDeviceGetMaxPcieLinkGeneration(void *device, unsigned *generation) {
    ENTER(ON(device));
    *generation = (unsigned)VALUE("pcie_generation", 5);
    return SUCCESS;
}

int nvmlDeviceGetMaxPcieLinkWidth(void *device, unsigned *width) {
    ENTER(ON(device));
    *width = (unsigned)VALUE("pcie_width", 16);
    return SUCCESS;
}

int nvmlDeviceGetComputeMode(void *device, unsigned *mode) {
    ENTER(ON(device));
    *mode = (unsigned)VALUE("compute_mode", 0);
    return SUCCESS;
}

typedef struct { unsigned pid; uint64_t stamp; unsigned sm, memory, encoder, decoder; } busy_t;

int nvmlDeviceGetProcessUtilization(void *device, busy_t *list, unsigned *count, uint64_t last) {
    ENTER(ON(device));
#ifndef OLD_DRIVER
    if (VALUE("mig", 0)) return 3;
#endif
    unsigned running = (unsigned)VALUE("process_samples", VALUE("processes", 0)), room = *count;
    *count = running;
    if (!running) return SUCCESS; /* as some drivers do where others say 6 */
    if (!list || room < running) return INSUFFICIENT_SIZE;
    uint64_t now = microseconds();
    for (unsigned i = 0; i < running; i++)
        list[i] = (busy_t){(unsigned)VALUE("first_pid", 1000) + i, now > last ? now : last + 1,
                           (unsigned)VALUE("process_sm", 25), 1, 0, 0};
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
    if (type != 1 && type != 2) return INVALID; /* 1 is the SM's, 2 the memory's */
    *megahertz = (unsigned)(type == 1 ? VALUE("clock", 345) : VALUE("memory_clock", 2619));
    return SUCCESS;
}

typedef struct { uint64_t total, free, used; } bar1_t;

int nvmlDeviceGetBAR1MemoryInfo(void *device, bar1_t *memory) {
    ENTER(ON(device));
    memory->total = 137438953472u;
    memory->used = (uint64_t)VALUE("bar1_used", 1048576);
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, uint64_t *mask) {
    ENTER(ON(device));
    *mask = (uint64_t)VALUE("clock_events", 1);
    return SUCCESS;
}

typedef struct {
    unsigned field, scope;
    int64_t timestamp, latency;
    unsigned type;
    int code;
    union { double number; unsigned small; uint64_t large; } value;
} field_t;

int nvmlDeviceGetFieldValues(void *device, int count, field_t *fields) {
    ENTER(ON(device));
    for (int i = 0; i < count; i++) {
        char name[32];
        snprintf(name, sizeof name, "field_%u", fields[i].field);
        double value = VALUE(name, 0);
        /* NVLink is told link by link, or for all links by an all-ones scope. */
        if ((fields[i].field == 138 || fields[i].field == 139) && fields[i].scope != UINT32_MAX) value = -1;
        fields[i].code = value < 0 ? 3 : SUCCESS;
        fields[i].timestamp = 1;
        fields[i].latency = 1;
        fields[i].type = value > 4294967295.0 ? 3 : 1;
        if (fields[i].type == 3) fields[i].value.large = value > 9e18 ? UINT64_MAX : (uint64_t)value;
        else fields[i].value.small = (unsigned)value;
    }
    return SUCCESS;
}

typedef struct { void *device; uint64_t type, data; unsigned gpu_instance, compute_instance; } event_t;

static int listening[GPUS];
static long delivered;

int nvmlEventSetCreate(void **set) {
    ENTER(ANY);
    memset(listening, 0, sizeof listening);
    *set = listening;
    return SUCCESS;
}

#ifdef OLD_DRIVER
#define EVENT_TYPES 8
#else
#define EVENT_TYPES 0xC01F /* with the two of newer drivers, 0x4000 and 0x8000 */
#endif

int nvmlDeviceGetSupportedEventTypes(void *device, uint64_t *types) {
    ENTER(ON(device));
    *types = (uint64_t)VALUE("event_types", EVENT_TYPES);
    return SUCCESS;
}

int nvmlDeviceRegisterEvents(void *device, uint64_t types, void *set) {
    ENTER(ON(device));
    if (set != listening || types & ~(uint64_t)VALUE("event_types", EVENT_TYPES)) return INVALID;
    listening[ON(device)] = (int)types;
    return SUCCESS;
}

int nvmlEventSetWait_v2(void *set, event_t *event, unsigned milliseconds) {
    char line[256];
    long gpu, number, seen = 0, type;
    ENTER(ANY);
    if (set != listening || milliseconds) return INVALID;
    FILE *file = configuration();
    while (file && fgets(line, sizeof line, file)) {
        if (sscanf(line, "xid %ld %ld", &gpu, &number) == 2) type = 8;
        else if (sscanf(line, "event %ld %ld", &gpu, &type) == 2) number = 0;
        else continue;
        if (seen++ < delivered) continue;
        delivered++;
        if (!(listening[gpu] & type)) continue;
        *event = (event_t){&devices[gpu], (uint64_t)type, (uint64_t)number, UINT32_MAX, UINT32_MAX};
        fclose(file);
        return SUCCESS;
    }
    if (file) fclose(file);
    return 10; /* nothing waits */
}

typedef struct { unsigned pid; uint64_t memory; unsigned gpu_instance, compute_instance; } process_t;

static int processes(void *device, const char *which, unsigned *count, process_t *list) {
    unsigned running = (unsigned)VALUE(which, 0), room = *count;
    double memory = VALUE("process_memory", -1);
    *count = running;
    if (!running) return SUCCESS;
    if (!list || room < running) return INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < running; i++)
        list[i] = (process_t){(unsigned)VALUE("first_pid", 1000) + i,
                              memory < 0 ? UINT64_MAX : (uint64_t)memory, UINT32_MAX, UINT32_MAX};
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v2(void *device, unsigned *count, process_t *list) {
    ENTER(ON(device));
    return processes(device, "processes", count, list);
}

#ifndef OLD_DRIVER
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, process_t *list) {
    ENTER(ON(device));
    return processes(device, "processes", count, list);
}

int nvmlDeviceGetMPSComputeRunningProcesses_v3(void *device, unsigned *count, process_t *list) {
    ENTER(ON(device));
    return processes(device, "mps", count, list);
}

typedef struct {
    unsigned multiprocessors, copy, decoders, encoders, jpeg, ofa, gpu_slices, compute_slices;
    uint64_t megabytes;
} attributes_t;

int nvmlDeviceGetAttributes_v2(void *device, attributes_t *attributes) {
    ENTER(ON(device));
    if (!((device_t *)device)->part) return 3;
    *attributes = (attributes_t){16, 1, 1, 0, 0, 0, (unsigned)VALUE("part_slices", 1), 1, 9984};
    return SUCCESS;
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

int nvmlDeviceGetCurrentClocksEventReasons(void *device, uint64_t *mask) {
    ENTER(ON(device));
    *mask = (uint64_t)VALUE("clock_events", 1);
    return SUCCESS;
}

typedef struct { unsigned version, supported; } gpm_support_t;

int nvmlGpmQueryDeviceSupport(void *device, gpm_support_t *support) {
    ENTER(ON(device));
    if (support->version != 1) return 25;
    support->supported = (unsigned)VALUE("gpm", 0);
    return SUCCESS;
}

typedef struct { int device; struct timespec taken; } sample_t;
static int samples; /* that were given out and not given back */

int nvmlGpmSampleAlloc(sample_t **sample) {
    ENTER(ANY);
    if (++samples > 2 * GPUS) return 20;
    *sample = calloc(1, sizeof **sample);
    (*sample)->device = ANY;
    return SUCCESS;
}

int nvmlGpmSampleFree(sample_t *sample) {
    ENTER(ANY);
    samples--;
    free(sample);
    return SUCCESS;
}

int nvmlGpmSampleGet(void *device, sample_t *sample) {
    ENTER(ON(device));
    if (VALUE("mig", 0)) return 3;
    sample->device = ON(device);
    clock_gettime(CLOCK_MONOTONIC, &sample->taken);
    return SUCCESS;
}

int nvmlGpmMigSampleGet(void *device, unsigned instance, sample_t *sample) {
    ENTER(ON(device));
    if (!VALUE("mig", 0) || instance < 3 || instance >= 3 + PARTS) return INVALID;
    sample->device = ON(device);
    clock_gettime(CLOCK_MONOTONIC, &sample->taken);
    return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned *count) {
    ENTER(ON(device));
    *count = PARTS;
    return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned index, void **part) {
    ENTER(ON(device));
    if (!VALUE("mig", 0) || index >= PARTS) return 3;
    if (index >= VALUE("parts", 0)) return 6;
    parts[ON(device)][index] = (device_t){ON(device), (int)index + 1};
    *part = &parts[ON(device)][index];
    return SUCCESS;
}

int nvmlDeviceGetGpuInstanceId(void *device, unsigned *instance) {
    ENTER(ON(device));
    if (!((device_t *)device)->part) return 3;
    *instance = (unsigned)((device_t *)device)->part + 2;
    return SUCCESS;
}

typedef struct { unsigned id; int code; double value; char *names[3]; } gpm_metric_t;
typedef struct { unsigned version, count; sample_t *first, *second; gpm_metric_t metrics[]; } gpm_metrics_t;

int nvmlGpmMetricsGet(gpm_metrics_t *wanted) {
    ENTER(ANY);
    if (wanted->version != 1) return 25;
    sample_t *first = wanted->first, *second = wanted->second;
    if (first->device < 0 || first->device != second->device) return INVALID;
    double span = (double)(second->taken.tv_sec - first->taken.tv_sec) +
                  (double)(second->taken.tv_nsec - first->taken.tv_nsec) * 1e-9;
    if (span < 0.1) return INVALID;
    for (unsigned i = 0; i < wanted->count; i++) {
        char name[32];
        snprintf(name, sizeof name, "gpm_%u", wanted->metrics[i].id);
        wanted->metrics[i].value = rule("value", name, first->device, 0);
        wanted->metrics[i].code = wanted->metrics[i].value < 0 ? 3 : SUCCESS;
    }
    return SUCCESS;
}

int nvmlDeviceGetMigMode(void *device, unsigned *current, unsigned *pending) {
    ENTER(ON(device));
    *current = *pending = (unsigned)VALUE("mig", 0);
    return SUCCESS;
}
#endif
