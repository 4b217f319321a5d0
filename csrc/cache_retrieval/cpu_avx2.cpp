#define VLMADAPT_ISA avx2
#include "cache_retrieval/cpu_table.h"
