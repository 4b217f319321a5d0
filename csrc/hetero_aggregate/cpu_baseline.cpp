#define VLMADAPT_ISA baseline
#include "hetero_aggregate/cpu_table.h"
