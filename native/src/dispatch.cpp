// Which instruction set runs here.
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && !defined(__APPLE__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "kernels.h"

namespace freehold {

const Kernels& kernels_plain();
#if defined(__x86_64__)
const Kernels& kernels_avx512bf16();
bool multiplies_pairs_as_specified();
const Kernels& kernels_avx512vnni();
const Kernels& kernels_avxvnni();
const Kernels& kernels_avx2();
#elif defined(__aarch64__)
const Kernels& kernels_neon();
#endif

namespace {

struct Isa {
    const char* name;
    const Kernels& (*table)();
    bool (*runs)();
};

#if defined(__x86_64__)
bool runs_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c");
}
bool runs_avx512vnni() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
}
bool runs_avxvnni() {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}
#elif defined(__aarch64__)
bool runs_neon() {
#if defined(__APPLE__)
    return true;  // every Apple chip of this architecture has the dot product
#else
    return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#endif
}
#endif

const Isa kIsas[] = {
#if defined(__x86_64__)
    {"avx512bf16", kernels_avx512bf16,
     [] {
         return runs_avx512vnni() && __builtin_cpu_supports("avx512bf16") &&
                multiplies_pairs_as_specified();
     }},
    {"avx512vnni", kernels_avx512vnni, [] { return runs_avx512vnni(); }},
    {"avxvnni", kernels_avxvnni, [] { return runs_avx2() && runs_avxvnni(); }},
    {"avx2", kernels_avx2, [] { return runs_avx2(); }},
#elif defined(__aarch64__)
    {"neon", kernels_neon, [] { return runs_neon(); }},
#endif
    {"plain", kernels_plain, [] { return true; }},
};

}  // namespace

const Kernels* kernels_for(const char* name) {
    for (const Isa& isa : kIsas) {
        const bool wanted = !*name || !std::strcmp(name, isa.name);
        if (wanted && isa.runs()) return &isa.table();
    }
    return nullptr;
}

const char* const* runnable_isas() {
    static const char* names[sizeof kIsas / sizeof *kIsas + 1] = {};
    if (!names[0]) {
        int n = 0;
        for (const Isa& isa : kIsas) {
            if (isa.runs()) names[n++] = isa.name;
        }
    }
    return names;
}

}  // namespace freehold
