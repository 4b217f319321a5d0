#define VLMADAPT_ISA avx512
#include "hetero_aggregate/cpu_table.h"
