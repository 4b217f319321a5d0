#define VLMADAPT_ISA baseline
#include "cache_retrieval/cpu_table.h"
