// Everything that NVRTC compiles, for one number of channels.
#include "batch.cuh"
#include "growth.cuh"
#include "loss.cuh"
#include "step.cuh"
