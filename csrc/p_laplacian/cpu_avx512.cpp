#define VLMADAPT_ISA avx512
#include "p_laplacian/cpu_table.h"
