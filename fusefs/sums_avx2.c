/* The same sum with AVX2, which every x86-64 of the last ten years has: half the time. */
#if defined(__x86_64__)
#pragma GCC target("avx2")
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "sums.h"

void block_sum_avx2(const void *data, size_t length, uint8_t sum[SUM])
{
    XXH128_canonicalFromHash((XXH128_canonical_t *)sum, XXH3_128bits(data, length));
}
#endif
