// Everything that NVRTC compiles, for one number of channels.
#include "growth.cuh"
#include "loss.cuh"
#include "step.cuh"
