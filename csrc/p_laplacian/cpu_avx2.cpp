#define VLMADAPT_ISA avx2
#include "p_laplacian/cpu_table.h"
