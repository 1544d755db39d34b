/* XXH3 by the system's libxxhash, its headers compiled in: the library itself is built for the oldest x86-64. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "sums.h"

void block_sum(const void *data, size_t length, uint8_t sum[SUM])
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) {
        block_sum_avx2(data, length, sum);
        return;
    }
#endif
    XXH128_canonicalFromHash((XXH128_canonical_t *)sum, XXH3_128bits(data, length));
}
