/* The sum of a page's block (appliance/ondisk/FORMAT.md): XXH3, 128 bits, big-endian, as its authors write it down. */
#include <stddef.h>
#include <stdint.h>

#define SUM 16 /* bytes */

void block_sum(const void *data, size_t length, uint8_t sum[SUM]);
void block_sum_avx2(const void *data, size_t length, uint8_t sum[SUM]);
