#define VLMADAPT_ISA avx512
#include "cache_retrieval/cpu_table.h"
