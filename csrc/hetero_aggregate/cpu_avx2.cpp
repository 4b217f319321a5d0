#define VLMADAPT_ISA avx2
#include "hetero_aggregate/cpu_table.h"
