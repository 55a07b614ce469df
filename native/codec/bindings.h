#pragma once

#include <nanobind/nanobind.h>

namespace splat2d::codec {

void bind(nanobind::module_& m);  // encode_packets and decode_packets

}  // namespace splat2d::codec
