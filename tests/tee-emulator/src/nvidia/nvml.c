/* A stand-in for libnvidia-ml.so.1 in tests: every call goes to the emulator, over the socket "nvml.sock" beside this
 * library, as 64 bytes of name, the number of the GPU (little endian) and 32 bytes of nonce. The answer is a return code,
 * a length, and the bytes for the caller's structure. Compiled with OLD it has no function of confidential computing,
 * like a driver from before. Names and argument lists are those of NVIDIA's nvml.h. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

typedef unsigned int code;
typedef struct device *handle;

enum { UNKNOWN = 999 };

static int transfer(int socket, unsigned char *bytes, size_t count, int sending) {
    while (count > 0) {
        ssize_t done = sending ? write(socket, bytes, count) : read(socket, bytes, count);
        if (done <= 0)
            return 0;
        bytes += done;
        count -= (size_t)done;
    }
    return 1;
}

static uint32_t number(const unsigned char *bytes) {
    return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

static code ask(const char *function, uint32_t gpu, const unsigned char *nonce, void *out, size_t room) {
    Dl_info here;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    unsigned char request[100] = {0}, head[8];
    code result = UNKNOWN;
    if (!dladdr((void *)ask, &here))
        return UNKNOWN;
    const char *slash = strrchr(here.dli_fname, '/');
    size_t folder = slash ? (size_t)(slash - here.dli_fname) + 1 : 0;
    if (folder + sizeof "nvml.sock" > sizeof address.sun_path)
        return UNKNOWN;
    memcpy(address.sun_path, here.dli_fname, folder);
    memcpy(address.sun_path + folder, "nvml.sock", sizeof "nvml.sock");
    strncpy((char *)request, function, 63);
    for (int byte = 0; byte < 4; byte++)
        request[64 + byte] = (unsigned char)(gpu >> 8 * byte);
    if (nonce)
        memcpy(request + 68, nonce, 32);
    int peer = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (peer < 0)
        return UNKNOWN;
    if (connect(peer, (struct sockaddr *)&address, sizeof address) == 0 && transfer(peer, request, sizeof request, 1) &&
        transfer(peer, head, sizeof head, 0)) {
        size_t length = number(head + 4);
        if (length <= room && transfer(peer, out, length, 0))
            result = number(head);
    }
    close(peer);
    return result;
}

static uint32_t index_of(handle gpu) { return (uint32_t)((uintptr_t)gpu - 1); }

code nvmlInit_v2(void) { return ask("nvmlInit_v2", 0, NULL, NULL, 0); }
code nvmlShutdown(void) { return ask("nvmlShutdown", 0, NULL, NULL, 0); }
code nvmlDeviceGetCount_v2(unsigned int *count) { return ask("nvmlDeviceGetCount_v2", 0, NULL, count, 4); }

code nvmlDeviceGetHandleByIndex_v2(unsigned int index, handle *gpu) {
    code result = ask("nvmlDeviceGetHandleByIndex_v2", index, NULL, NULL, 0);
    *gpu = (handle)((uintptr_t)index + 1);
    return result;
}

code nvmlDeviceGetName(handle gpu, char *name, unsigned int room) {
    return ask("nvmlDeviceGetName", index_of(gpu), NULL, name, room);
}

code nvmlDeviceGetUUID(handle gpu, char *uuid, unsigned int room) {
    return ask("nvmlDeviceGetUUID", index_of(gpu), NULL, uuid, room);
}

code nvmlDeviceGetPciInfo_v3(handle gpu, void *info) {
    return ask("nvmlDeviceGetPciInfo_v3", index_of(gpu), NULL, info, 16 + 5 * 4 + 32);
}

code nvmlDeviceGetArchitecture(handle gpu, unsigned int *architecture) {
    return ask("nvmlDeviceGetArchitecture", index_of(gpu), NULL, architecture, 4);
}

#ifndef OLD
code nvmlSystemGetConfComputeState(void *state) {
    return ask("nvmlSystemGetConfComputeState", 0, NULL, state, 3 * 4);
}

code nvmlSystemGetConfComputeSettings(unsigned char *settings) {
    /* Size and version of the structure that the caller expects. */
    if (number(settings) != (5 * 4 | 1 << 24))
        return 25;
    return ask("nvmlSystemGetConfComputeSettings", 0, NULL, settings, 5 * 4);
}

code nvmlDeviceGetConfComputeGpuAttestationReport(handle gpu, unsigned char *report) {
    return ask("nvmlDeviceGetConfComputeGpuAttestationReport", index_of(gpu), report + 12, report,
               12 + 32 + 0x2000 + 0x1000);
}

code nvmlDeviceGetConfComputeGpuCertificate(handle gpu, void *certificate) {
    return ask("nvmlDeviceGetConfComputeGpuCertificate", index_of(gpu), NULL, certificate, 8 + 0x1000 + 0x1400);
}

code nvmlSystemSetConfComputeGpusReadyState(unsigned int ready) {
    return ask("nvmlSystemSetConfComputeGpusReadyState", ready, NULL, NULL, 0);
}
#endif
