#define VLMADAPT_ISA baseline
#include "p_laplacian/cpu_table.h"
