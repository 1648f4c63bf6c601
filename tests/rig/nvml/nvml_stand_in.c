/* Stands in for libnvidia-ml.so.1 on a box without GPUs: answers what a state file says.
 *
 * The file (path in GPUD_FAKE_NVML_STATE) is read again whenever it was replaced. One fact a line, the first
 * word says which. Before the first gpu line: driver, nvml, cuda, init CODE, hang 0|1, fail FUNCTION CODE.
 * "gpu UUID" begins a GPU, "mig UUID GI CI" a MIG device of the GPU before it, and the lines after it describe
 * that device: see set_fact(). tests/rig/nvml_stand_in.py writes these files.
 */
#include <nvml.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <time.h>

#define DEVICES_MAX 128
#define PROCESSES_MAX 64
#define PEERS_MAX 36
#define EVENTS_MAX 256
#define FAILURES_MAX 32
#define CPU_WORDS 16
#define WORD_BITS (8 * sizeof(unsigned long))
#define POLL_NS 2000000L

typedef unsigned long long u64;

struct process {
    char kind; /* 'c' compute, 'g' graphics, 'm' MPS */
    unsigned pid;
    u64 used;
};

struct device {
    char uuid[NVML_DEVICE_UUID_V2_BUFFER_SIZE], name[NVML_DEVICE_NAME_V2_BUFFER_SIZE], pci[32];
    int parent; /* index of the GPU a MIG device is part of, -1 for a GPU */
    unsigned gi, ci, mig_mode, mig_mode_pending, mig_max, error, hang;
    u64 total, used, reserved, energy, reasons, ecc_corrected, ecc_uncorrected;
    unsigned utilisation_gpu, utilisation_memory, power, power_limit, temperature, slices;
    unsigned remapped_corrected, remapped_uncorrected, remap_pending, remap_failed;
    int numa;
    unsigned long cpus[CPU_WORDS];
    struct process processes[PROCESSES_MAX];
    int process_count;
    struct { unsigned link; char uuid[NVML_DEVICE_UUID_V2_BUFFER_SIZE]; } links[PEERS_MAX];
    struct { unsigned level; char uuid[NVML_DEVICE_UUID_V2_BUFFER_SIZE]; } topology[PEERS_MAX];
    int link_count, topology_count;
};

static struct {
    char driver[80], nvml[80];
    int cuda;
    unsigned init, hang;
    struct device devices[DEVICES_MAX];
    int device_count;
    struct { u64 sequence, type, data; char uuid[NVML_DEVICE_UUID_V2_BUFFER_SIZE]; unsigned gi, ci; } events[EVENTS_MAX];
    int event_count;
    struct { char function[96]; unsigned code; } failures[FAILURES_MAX];
    int failure_count;
} state;

/* A handle outlives the devices it was made for, as in the real library, so it holds no more than a UUID. */
struct nvmlDevice_st {
    char uuid[NVML_DEVICE_UUID_V2_BUFFER_SIZE];
    struct nvmlDevice_st *next;
};

struct nvmlEventSet_st {
    struct { nvmlDevice_t device; u64 types; } registered[DEVICES_MAX];
    int count;
    u64 delivered; /* sequence number of the last event handed out */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct nvmlDevice_st *handles;
static int initialised;
static struct stat seen;

static void copy(char *to, size_t size, const char *from) { snprintf(to, size, "%s", from); }

static void set_cpus(struct device *device, const char *ranges) {
    char *end;
    while (*ranges) {
        unsigned long first = strtoul(ranges, &end, 10), last = first;
        if (*end == '-')
            last = strtoul(end + 1, &end, 10);
        for (unsigned long cpu = first; cpu <= last && cpu < CPU_WORDS * WORD_BITS; cpu++)
            device->cpus[cpu / WORD_BITS] |= 1UL << (cpu % WORD_BITS);
        ranges = *end == ',' ? end + 1 : "";
    }
}

static void set_fact(struct device *d, const char *key, const char *rest) {
    struct process p = {0};
    char word[96];
    unsigned number;
    if (!strcmp(key, "name")) copy(d->name, sizeof d->name, rest);
    else if (!strcmp(key, "pci")) copy(d->pci, sizeof d->pci, rest);
    else if (!strcmp(key, "memory")) sscanf(rest, "%llu %llu %llu", &d->total, &d->used, &d->reserved);
    else if (!strcmp(key, "cpus")) set_cpus(d, rest);
    else if (!strcmp(key, "numa")) d->numa = atoi(rest);
    else if (!strcmp(key, "utilisation")) sscanf(rest, "%u %u", &d->utilisation_gpu, &d->utilisation_memory);
    else if (!strcmp(key, "power")) sscanf(rest, "%u %u", &d->power, &d->power_limit);
    else if (!strcmp(key, "energy")) d->energy = strtoull(rest, NULL, 10);
    else if (!strcmp(key, "temperature")) d->temperature = (unsigned)atoi(rest);
    else if (!strcmp(key, "reasons")) d->reasons = strtoull(rest, NULL, 0);
    else if (!strcmp(key, "ecc")) sscanf(rest, "%llu %llu", &d->ecc_corrected, &d->ecc_uncorrected);
    else if (!strcmp(key, "remapped"))
        sscanf(rest, "%u %u %u %u", &d->remapped_corrected, &d->remapped_uncorrected, &d->remap_pending,
               &d->remap_failed);
    else if (!strcmp(key, "mig_mode")) sscanf(rest, "%u %u %u", &d->mig_mode, &d->mig_mode_pending, &d->mig_max);
    else if (!strcmp(key, "slices")) d->slices = (unsigned)atoi(rest);
    else if (!strcmp(key, "error")) d->error = (unsigned)atoi(rest);
    else if (!strcmp(key, "hang")) d->hang = (unsigned)atoi(rest);
    else if (!strcmp(key, "process") && d->process_count < PROCESSES_MAX) {
        if (sscanf(rest, "%c%*s %u %llu", &p.kind, &p.pid, &p.used) == 3) d->processes[d->process_count++] = p;
    } else if (!strcmp(key, "link") && d->link_count < PEERS_MAX) {
        if (sscanf(rest, "%u %95s", &number, word) == 2) {
            d->links[d->link_count].link = number;
            copy(d->links[d->link_count++].uuid, sizeof d->links[0].uuid, word);
        }
    } else if (!strcmp(key, "topology") && d->topology_count < PEERS_MAX) {
        if (sscanf(rest, "%u %95s", &number, word) == 2) {
            d->topology[d->topology_count].level = number;
            copy(d->topology[d->topology_count++].uuid, sizeof d->topology[0].uuid, word);
        }
    }
}

static void read_line(char *line) {
    char *rest = line + strcspn(line, " ");
    struct device *current = state.device_count ? &state.devices[state.device_count - 1] : NULL;
    if (*rest) *rest++ = 0;
    if (!strcmp(line, "gpu") || !strcmp(line, "mig")) {
        int parent = -1;
        if (state.device_count == DEVICES_MAX) return;
        if (*line == 'm')
            for (parent = state.device_count - 1; parent >= 0 && state.devices[parent].parent >= 0; parent--) {}
        current = &state.devices[state.device_count++];
        memset(current, 0, sizeof *current);
        current->parent = parent;
        current->gi = current->ci = 0xFFFFFFFF;
        current->numa = -1;
        sscanf(rest, "%95s %u %u", current->uuid, &current->gi, &current->ci);
    } else if (!strcmp(line, "event")) {
        if (state.event_count < EVENTS_MAX) {
            __auto_type event = &state.events[state.event_count++];
            event->gi = event->ci = 0xFFFFFFFF;
            sscanf(rest, "%llu %llu %llu %95s %u %u", &event->sequence, &event->type, &event->data, event->uuid,
                   &event->gi, &event->ci);
        }
    } else if (current) set_fact(current, line, rest);
    else if (!strcmp(line, "driver")) copy(state.driver, sizeof state.driver, rest);
    else if (!strcmp(line, "nvml")) copy(state.nvml, sizeof state.nvml, rest);
    else if (!strcmp(line, "cuda")) state.cuda = atoi(rest);
    else if (!strcmp(line, "init")) state.init = (unsigned)atoi(rest);
    else if (!strcmp(line, "hang")) state.hang = (unsigned)atoi(rest);
    else if (!strcmp(line, "fail") && state.failure_count < FAILURES_MAX) {
        __auto_type failure = &state.failures[state.failure_count++];
        sscanf(rest, "%95s %u", failure->function, &failure->code);
    }
}

/* Reads the state file if it is another than the one read last. Without a file there is no driver. */
static void refresh(void) {
    const char *path = getenv("GPUD_FAKE_NVML_STATE");
    struct stat now;
    char line[1024];
    FILE *file;
    if (!path || stat(path, &now) != 0 || !(file = fopen(path, "re"))) {
        memset(&state, 0, sizeof state);
        memset(&seen, 0, sizeof seen);
        state.init = NVML_ERROR_DRIVER_NOT_LOADED;
        return;
    }
    if (now.st_ino != seen.st_ino || now.st_mtim.tv_sec != seen.st_mtim.tv_sec ||
        now.st_mtim.tv_nsec != seen.st_mtim.tv_nsec || now.st_size != seen.st_size) {
        memset(&state, 0, sizeof state);
        while (fgets(line, sizeof line, file)) {
            line[strcspn(line, "\n")] = 0;
            read_line(line);
        }
        seen = now;
    }
    fclose(file);
}

static void pause_unlocked(void) {
    struct timespec span = {0, POLL_NS};
    pthread_mutex_unlock(&lock);
    nanosleep(&span, NULL);
    pthread_mutex_lock(&lock);
    refresh();
}

static struct device *find(const char *uuid) {
    for (int i = 0; i < state.device_count; i++)
        if (!strcmp(state.devices[i].uuid, uuid)) return &state.devices[i];
    return NULL;
}

static struct device *gpu_of(struct device *device) {
    return device->parent < 0 ? device : &state.devices[device->parent];
}

/* The start of every call: takes the lock, waits while the state says to hang, gives the failure to return. */
static nvmlReturn_t enter(const char *function) {
    pthread_mutex_lock(&lock);
    refresh();
    while (state.hang) pause_unlocked();
    for (int i = 0; i < state.failure_count; i++)
        if (!strcmp(state.failures[i].function, function)) return state.failures[i].code;
    return NVML_SUCCESS;
}

static nvmlReturn_t leave(nvmlReturn_t result) {
    pthread_mutex_unlock(&lock);
    return result;
}

static nvmlReturn_t enter_initialised(const char *function) {
    nvmlReturn_t result = enter(function);
    return result == NVML_SUCCESS && !initialised ? NVML_ERROR_UNINITIALIZED : result;
}

static nvmlReturn_t enter_device(const char *function, nvmlDevice_t handle, struct device **device) {
    nvmlReturn_t result = enter_initialised(function);
    if (result != NVML_SUCCESS) return result;
    if (!handle) return NVML_ERROR_INVALID_ARGUMENT;
    /* Looked up again after each pause: the state may be another one by then. */
    while ((*device = find(handle->uuid)) && (gpu_of(*device)->hang || (*device)->hang)) pause_unlocked();
    if (!*device) return NVML_ERROR_GPU_IS_LOST;
    return gpu_of(*device)->error ? gpu_of(*device)->error : (*device)->error;
}

#define ENTER(entry) \
    do { \
        nvmlReturn_t refused = (entry); \
        if (refused != NVML_SUCCESS) return leave(refused); \
    } while (0)
#define ENTER_DEVICE() \
    struct device *d; \
    ENTER(enter_device(__func__, device, &d))
#define REFUSE_IF(condition, code) \
    do { \
        if (condition) return leave(code); \
    } while (0)

static nvmlDevice_t handle_of(const char *uuid) {
    struct nvmlDevice_st *handle;
    for (handle = handles; handle; handle = handle->next)
        if (!strcmp(handle->uuid, uuid)) return handle;
    handle = calloc(1, sizeof *handle);
    copy(handle->uuid, sizeof handle->uuid, uuid);
    handle->next = handles;
    return handles = handle;
}

/* The index-th GPU, or the index-th MIG device of a GPU. */
static struct device *nth(unsigned index, int parent) {
    for (int i = 0; i < state.device_count; i++)
        if (state.devices[i].parent == parent && index-- == 0) return &state.devices[i];
    return NULL;
}

static nvmlReturn_t give_text(char *to, unsigned length, const char *text) {
    if (!to) return NVML_ERROR_INVALID_ARGUMENT;
    if (strlen(text) >= length) return NVML_ERROR_INSUFFICIENT_SIZE;
    copy(to, length, text);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    ENTER(enter(__func__));
    REFUSE_IF(state.init != NVML_SUCCESS, state.init);
    initialised++;
    return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

nvmlReturn_t nvmlShutdown(void) {
    ENTER(enter_initialised(__func__));
    initialised--;
    return leave(NVML_SUCCESS);
}

const char *nvmlErrorString(nvmlReturn_t result) {
    static char text[64];
    snprintf(text, sizeof text, "stand-in NVML error %d", (int)result);
    return text;
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length) {
    ENTER(enter_initialised(__func__));
    return leave(give_text(version, length, state.driver));
}

nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned int length) {
    ENTER(enter(__func__));
    return leave(give_text(version, length, state.nvml));
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version) {
    ENTER(enter(__func__));
    *version = state.cuda;
    return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version) { return nvmlSystemGetCudaDriverVersion_v2(version); }

nvmlReturn_t nvmlSystemGetProcessName(unsigned int pid, char *name, unsigned int length) {
    char path[64], text[256] = "";
    ENTER(enter_initialised(__func__));
    snprintf(path, sizeof path, "/proc/%u/cmdline", pid);
    FILE *file = fopen(path, "re");
    REFUSE_IF(!file, NVML_ERROR_NOT_FOUND);
    if (!fgets(text, sizeof text, file)) text[0] = 0;
    fclose(file);
    return leave(give_text(name, length, text));
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count) {
    ENTER(enter_initialised(__func__));
    for (*count = 0; nth(*count, -1); ++*count) {}
    return leave(NVML_SUCCESS);
}

static nvmlReturn_t give_handle(struct device *found, nvmlReturn_t otherwise, nvmlDevice_t *device) {
    if (!found) return otherwise;
    *device = handle_of(found->uuid);
    return gpu_of(found)->error ? gpu_of(found)->error : NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device) {
    ENTER(enter_initialised(__func__));
    return leave(give_handle(nth(index, -1), NVML_ERROR_INVALID_ARGUMENT, device));
}

nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device) {
    ENTER(enter_initialised(__func__));
    REFUSE_IF(!uuid, NVML_ERROR_INVALID_ARGUMENT);
    return leave(give_handle(find(uuid), NVML_ERROR_NOT_FOUND, device));
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, nvmlDevice_t *device) {
    ENTER(enter_initialised(__func__));
    for (int i = 0; i < state.device_count; i++)
        if (state.devices[i].parent < 0 && !strcasecmp(state.devices[i].pci, bus_id))
            return leave(give_handle(&state.devices[i], NVML_ERROR_NOT_FOUND, device));
    return leave(NVML_ERROR_NOT_FOUND);
}

nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *index) {
    ENTER_DEVICE();
    for (*index = 0; nth(*index, d->parent) != d; ++*index) {}
    return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned int *minor) {
    ENTER_DEVICE();
    REFUSE_IF(d->parent >= 0, NVML_ERROR_NOT_SUPPORTED);
    for (*minor = 0; nth(*minor, -1) != d; ++*minor) {}
    return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length) {
    ENTER_DEVICE();
    return leave(give_text(uuid, length, d->uuid));
}

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length) {
    ENTER_DEVICE();
    return leave(give_text(name, length, d->name));
}

static void give_pci(const struct device *d, nvmlPciInfo_t *pci) {
    memset(pci, 0, sizeof *pci);
    copy(pci->busId, sizeof pci->busId, d->pci);
    sscanf(d->pci, "%x:%x:%x", &pci->domain, &pci->bus, &pci->device);
    snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, "%04X:%02X:%02X.0", pci->domain & 0xFFFF, pci->bus & 0xFF,
             pci->device & 0xFF);
    pci->pciDeviceId = 0x20B010DE;
}

nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci) {
    ENTER_DEVICE();
    give_pci(gpu_of(d), pci);
    return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory) {
    ENTER_DEVICE();
    memory->total = d->total;
    memory->used = d->used + d->reserved; /* The first version counts the driver's share as used. */
    memory->free = memory->total - memory->used;
    return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory) {
    ENTER_DEVICE();
    REFUSE_IF(memory->version != nvmlMemory_v2, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    memory->total = d->total;
    memory->used = d->used;
    memory->reserved = d->reserved;
    memory->free = d->total - d->used - d->reserved;
    return leave(NVML_SUCCESS);
}

/* Processes of a device; a GPU lists those of its MIG devices too, with the instances they run on. */
static nvmlReturn_t give_processes(const char *function, nvmlDevice_t device, char kind, unsigned int *count,
                                   nvmlProcessInfo_t *infos) {
    struct device *d;
    unsigned room = *count, found = 0;
    ENTER(enter_device(function, device, &d));
    for (int i = 0; i < state.device_count; i++) {
        struct device *part = &state.devices[i];
        if (part != d && (part->parent < 0 || gpu_of(part) != d)) continue;
        for (int p = 0; p < part->process_count; p++) {
            if (part->processes[p].kind != kind) continue;
            if (infos && found < room)
                infos[found] = (nvmlProcessInfo_t){.pid = part->processes[p].pid,
                                                   .usedGpuMemory = part->processes[p].used,
                                                   .gpuInstanceId = part->gi,
                                                   .computeInstanceId = part->ci};
            found++;
        }
    }
    *count = found;
    return leave(found > room || (found && !infos) ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS);
}

#define PROCESS_LIST(function, kind) \
    nvmlReturn_t function##_v3(nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_t *infos) { \
        return give_processes(__func__, device, kind, count, infos); \
    } \
    nvmlReturn_t function##_v2(nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_v2_t *infos) { \
        return give_processes(__func__, device, kind, count, infos); \
    }

PROCESS_LIST(nvmlDeviceGetComputeRunningProcesses, 'c')
PROCESS_LIST(nvmlDeviceGetGraphicsRunningProcesses, 'g')
PROCESS_LIST(nvmlDeviceGetMPSComputeRunningProcesses, 'm')

nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *current, unsigned int *pending) {
    ENTER_DEVICE();
    REFUSE_IF(d->parent >= 0 || !d->mig_max, NVML_ERROR_NOT_SUPPORTED);
    *current = d->mig_mode;
    *pending = d->mig_mode_pending;
    return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned int *count) {
    ENTER_DEVICE();
    *count = d->parent >= 0 ? 0 : d->mig_max;
    return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned int index, nvmlDevice_t *mig) {
    ENTER_DEVICE();
    REFUSE_IF(d->parent >= 0 || !d->mig_mode, NVML_ERROR_NOT_SUPPORTED);
    REFUSE_IF(index >= d->mig_max, NVML_ERROR_INVALID_ARGUMENT);
    return leave(give_handle(nth(index, (int)(d - state.devices)), NVML_ERROR_NOT_FOUND, mig));
}

nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t device, nvmlDevice_t *gpu) {
    ENTER_DEVICE();
    REFUSE_IF(d->parent < 0, NVML_ERROR_INVALID_ARGUMENT);
    *gpu = handle_of(gpu_of(d)->uuid);
    return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned int *is_mig) {
    ENTER_DEVICE();
    *is_mig = d->parent >= 0;
    return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t device, unsigned int *id) {
    ENTER_DEVICE();
    REFUSE_IF(d->parent < 0, NVML_ERROR_NOT_SUPPORTED);
    *id = d->gi;
    return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t device, unsigned int *id) {
    ENTER_DEVICE();
    REFUSE_IF(d->parent < 0, NVML_ERROR_NOT_SUPPORTED);
    *id = d->ci;
    return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device, nvmlDeviceAttributes_t *attributes) {
    ENTER_DEVICE();
    REFUSE_IF(d->parent < 0, NVML_ERROR_NOT_SUPPORTED);
    memset(attributes, 0, sizeof *attributes);
    attributes->gpuInstanceSliceCount = attributes->computeInstanceSliceCount = d->slices;
    attributes->memorySizeMB = d->total >> 20;
    return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetCpuAffinity(nvmlDevice_t device, unsigned int size, unsigned long *cpus) {
    ENTER_DEVICE();
    for (unsigned i = 0; i < size; i++) cpus[i] = i < CPU_WORDS ? gpu_of(d)->cpus[i] : 0;
    for (unsigned i = size; i < CPU_WORDS; i++) REFUSE_IF(gpu_of(d)->cpus[i], NVML_ERROR_INSUFFICIENT_SIZE);
    return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetCpuAffinityWithinScope(nvmlDevice_t device, unsigned int size, unsigned long *cpus,
                                                 nvmlAffinityScope_t scope) {
    (void)scope;
    return nvmlDeviceGetCpuAffinity(device, size, cpus);
}

nvmlReturn_t nvmlDeviceGetMemoryAffinity(nvmlDevice_t device, unsigned int size, unsigned long *nodes,
                                         nvmlAffinityScope_t scope) {
    (void)scope;
    ENTER_DEVICE();
    int node = gpu_of(d)->numa;
    REFUSE_IF(node < 0, NVML_ERROR_NOT_SUPPORTED);
    REFUSE_IF((unsigned)node >= size * WORD_BITS, NVML_ERROR_INSUFFICIENT_SIZE);
    memset(nodes, 0, size * sizeof *nodes);
    nodes[(unsigned)node / WORD_BITS] = 1UL << ((unsigned)node % WORD_BITS);
    return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetNumaNodeId(nvmlDevice_t device, unsigned int *node) {
    ENTER_DEVICE();
    REFUSE_IF(gpu_of(d)->numa < 0, NVML_ERROR_NOT_SUPPORTED);
    *node = (unsigned)gpu_of(d)->numa;
    return leave(NVML_SUCCESS);
}

static int linked(const struct device *one, const struct device *other) {
    for (int i = 0; i < one->link_count; i++)
        if (!strcmp(one->links[i].uuid, other->uuid)) return 1;
    return 0;
}

/* What the state says of the pair, seen from either side, else what their NUMA nodes allow. */
static unsigned level_between(const struct device *one, const struct device *other) {
    if (one == other) return NVML_TOPOLOGY_INTERNAL;
    for (int turn = 0; turn < 2; turn++) {
        for (int i = 0; i < one->topology_count; i++)
            if (!strcmp(one->topology[i].uuid, other->uuid)) return one->topology[i].level;
        const struct device *swapped = one;
        one = other;
        other = swapped;
    }
    return one->numa == other->numa ? NVML_TOPOLOGY_NODE : NVML_TOPOLOGY_SYSTEM;
}

nvmlReturn_t nvmlDeviceGetTopologyCommonAncestor(nvmlDevice_t device, nvmlDevice_t other,
                                                 nvmlGpuTopologyLevel_t *level) {
    ENTER_DEVICE();
    struct device *o = other ? find(other->uuid) : NULL;
    REFUSE_IF(!o, NVML_ERROR_INVALID_ARGUMENT);
    *level = level_between(gpu_of(d), gpu_of(o));
    return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetP2PStatus(nvmlDevice_t device, nvmlDevice_t other, nvmlGpuP2PCapsIndex_t index,
                                    nvmlGpuP2PStatus_t *status) {
    ENTER_DEVICE();
    struct device *o = other ? find(other->uuid) : NULL;
    REFUSE_IF(!o, NVML_ERROR_INVALID_ARGUMENT);
    int joined = linked(d, o) || linked(o, d);
    int near = level_between(d, o) <= NVML_TOPOLOGY_HOSTBRIDGE;
    int able = index == NVML_P2P_CAPS_INDEX_NVLINK ? joined : index == NVML_P2P_CAPS_INDEX_PCI ? near : joined || near;
    *status = able ? NVML_P2P_STATUS_OK : NVML_P2P_STATUS_NOT_SUPPORTED;
    return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t device, unsigned int link, nvmlEnableState_t *active) {
    ENTER_DEVICE();
    REFUSE_IF(link >= NVML_NVLINK_MAX_LINKS, NVML_ERROR_INVALID_ARGUMENT);
    REFUSE_IF(!d->link_count, NVML_ERROR_NOT_SUPPORTED);
    *active = NVML_FEATURE_DISABLED;
    for (int i = 0; i < d->link_count; i++)
        if (d->links[i].link == link) *active = NVML_FEATURE_ENABLED;
    return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetNvLinkRemotePciInfo_v2(nvmlDevice_t device, unsigned int link, nvmlPciInfo_t *pci) {
    ENTER_DEVICE();
    for (int i = 0; i < d->link_count; i++) {
        struct device *peer = find(d->links[i].uuid);
        if (d->links[i].link == link && peer) {
            give_pci(peer, pci);
            return leave(NVML_SUCCESS);
        }
    }
    return leave(d->link_count ? NVML_ERROR_INVALID_ARGUMENT : NVML_ERROR_NOT_SUPPORTED);
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *utilisation) {
    ENTER_DEVICE();
    REFUSE_IF(d->parent >= 0 || d->mig_mode, NVML_ERROR_NOT_SUPPORTED); /* as on a GPU in MIG mode */
    utilisation->gpu = d->utilisation_gpu;
    utilisation->memory = d->utilisation_memory;
    return leave(NVML_SUCCESS);
}

/* Functions that give one fact of a whole GPU, which a MIG device does not have. */
#define GPU_FACT(function, type, fact) \
    nvmlReturn_t function(nvmlDevice_t device, type *value) { \
        ENTER_DEVICE(); \
        REFUSE_IF(d->parent >= 0, NVML_ERROR_NOT_SUPPORTED); \
        *value = fact; \
        return leave(NVML_SUCCESS); \
    }

GPU_FACT(nvmlDeviceGetPowerUsage, unsigned int, d->power)
GPU_FACT(nvmlDeviceGetPowerManagementLimit, unsigned int, d->power_limit)
GPU_FACT(nvmlDeviceGetEnforcedPowerLimit, unsigned int, d->power_limit)
GPU_FACT(nvmlDeviceGetTotalEnergyConsumption, u64, d->energy)
GPU_FACT(nvmlDeviceGetCurrentClocksEventReasons, u64, d->reasons)
GPU_FACT(nvmlDeviceGetCurrentClocksThrottleReasons, u64, d->reasons)
GPU_FACT(nvmlDeviceGetSupportedEventTypes, u64, nvmlEventTypeXidCriticalError | nvmlEventTypeDoubleBitEccError)

nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, nvmlTemperatureSensors_t sensor, unsigned int *celsius) {
    ENTER_DEVICE();
    REFUSE_IF(sensor != NVML_TEMPERATURE_GPU, NVML_ERROR_INVALID_ARGUMENT);
    *celsius = gpu_of(d)->temperature;
    return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_t *temperature) {
    ENTER_DEVICE();
    REFUSE_IF(temperature->version != nvmlTemperature_v1, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    temperature->temperature = (int)gpu_of(d)->temperature;
    return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t device, nvmlEnableState_t *current, nvmlEnableState_t *pending) {
    ENTER_DEVICE();
    *current = *pending = NVML_FEATURE_ENABLED;
    return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, nvmlMemoryErrorType_t type, nvmlEccCounterType_t counter,
                                         u64 *errors) {
    (void)counter;
    ENTER_DEVICE();
    *errors = type == NVML_MEMORY_ERROR_TYPE_CORRECTED ? gpu_of(d)->ecc_corrected : gpu_of(d)->ecc_uncorrected;
    return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetMemoryErrorCounter(nvmlDevice_t device, nvmlMemoryErrorType_t type,
                                             nvmlEccCounterType_t counter, nvmlMemoryLocation_t location, u64 *errors) {
    if (location == NVML_MEMORY_LOCATION_DEVICE_MEMORY) return nvmlDeviceGetTotalEccErrors(device, type, counter, errors);
    ENTER_DEVICE();
    *errors = 0;
    return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t device, unsigned int *corrected, unsigned int *uncorrected,
                                       unsigned int *pending, unsigned int *failed) {
    ENTER_DEVICE();
    *corrected = gpu_of(d)->remapped_corrected;
    *uncorrected = gpu_of(d)->remapped_uncorrected;
    *pending = gpu_of(d)->remap_pending;
    *failed = gpu_of(d)->remap_failed;
    return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set) {
    ENTER(enter_initialised(__func__));
    *set = calloc(1, sizeof **set);
    for (int i = 0; i < state.event_count; i++) /* What happened before is not this set's business. */
        if (state.events[i].sequence > (*set)->delivered) (*set)->delivered = state.events[i].sequence;
    return leave(*set ? NVML_SUCCESS : NVML_ERROR_MEMORY);
}

nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set) {
    ENTER(enter_initialised(__func__));
    free(set);
    return leave(NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, u64 types, nvmlEventSet_t set) {
    ENTER_DEVICE();
    REFUSE_IF(d->parent >= 0, NVML_ERROR_NOT_SUPPORTED);
    REFUSE_IF(!set || set->count == DEVICES_MAX, NVML_ERROR_INVALID_ARGUMENT);
    set->registered[set->count].device = device;
    set->registered[set->count++].types = types;
    return leave(NVML_SUCCESS);
}

/* The oldest event the set has not handed out, if any. */
static int take_event(nvmlEventSet_t set, nvmlEventData_t *data) {
    int oldest = -1;
    for (int i = 0; i < state.event_count; i++) {
        if (state.events[i].sequence <= set->delivered) continue;
        if (oldest >= 0 && state.events[oldest].sequence < state.events[i].sequence) continue;
        for (int r = 0; r < set->count; r++)
            if (!strcmp(set->registered[r].device->uuid, state.events[i].uuid) &&
                set->registered[r].types & state.events[i].type)
                oldest = i;
    }
    if (oldest < 0) return 0;
    set->delivered = state.events[oldest].sequence;
    *data = (nvmlEventData_t){.device = handle_of(state.events[oldest].uuid),
                              .eventType = state.events[oldest].type,
                              .eventData = state.events[oldest].data,
                              .gpuInstanceId = state.events[oldest].gi,
                              .computeInstanceId = state.events[oldest].ci};
    return 1;
}

nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data, unsigned int timeout_ms) {
    struct timespec now, end;
    ENTER(enter_initialised(__func__));
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += timeout_ms / 1000;
    end.tv_nsec += (timeout_ms % 1000) * 1000000L;
    for (;;) {
        REFUSE_IF(take_event(set, data), NVML_SUCCESS);
        for (int r = 0; r < set->count; r++) {
            struct device *d = find(set->registered[r].device->uuid);
            REFUSE_IF(!d || d->error == NVML_ERROR_GPU_IS_LOST, NVML_ERROR_GPU_IS_LOST);
        }
        clock_gettime(CLOCK_MONOTONIC, &now);
        REFUSE_IF((now.tv_sec - end.tv_sec) * 1000000000L + now.tv_nsec - end.tv_nsec >= 0, NVML_ERROR_TIMEOUT);
        pause_unlocked();
        while (state.hang) pause_unlocked();
    }
}
