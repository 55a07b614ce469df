// What the losses make of a difference, for both engines.
#pragma once

#include "gaussian.h"

namespace splat2d {

// The weight of a residual, render - target: `outside` beyond 0 or 1 where the target is just that, since a clamp
// hides it, else 1. A weighted residual has the same weight as the one that it came from.
SPLAT2D_FN float weight_of(float residual, float target, float outside) {
  return (target >= 1.0f && residual > 0.0f) || (target <= 0.0f && residual < 0.0f) ? outside : 1.0f;
}

}  // namespace splat2d
