// Any bytes through the packet decoder: they are refused, or what comes out can be encoded and decoded again, to the
// same integers. Built with sanitizers; tests/test_fuzz.py builds and runs it.
//
// An input is a head of 9 bytes (width, height, margin: 16 bits, low byte first; cell exponent + 4; channels; number of
// packets), then for each packet its count and its length in 16 bits, and its payload.
//
// With GCC:   c++ -std=c++20 -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -DSPLAT2D_FUZZ_MAIN
//                 -Inative tests/fuzz/decode.cpp native/codec/packets.cpp -o fuzz && ./fuzz SEED FIRST COUNT FILE...
// With Clang: clang++ -std=c++20 -O1 -g -fsanitize=fuzzer,address,undefined -Inative tests/fuzz/decode.cpp
//                 native/codec/packets.cpp -o fuzz && ./fuzz tests/fuzz/corpus
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <stdexcept>
#include <vector>

#define SPLAT2D_SET fuzzed
#include "codec/leaves_of_set.h"
#include "codec/packets.h"

namespace splat2d {
const CodecKernels& codec_kernels() {
  static constexpr CodecKernels kernels = {fuzzed::look_around, fuzzed::add_hidden};
  return kernels;
}
}  // namespace splat2d

namespace codec = splat2d::codec;

namespace {

using Bytes = std::vector<std::uint8_t>;

// Reads from the input; zeros come after its end.
struct Input {
  std::span<const std::uint8_t> left;

  std::uint32_t number(int bytes) {
    std::uint32_t value = 0;
    for (int i = 0; i < bytes && !left.empty(); ++i) {
      value |= std::uint32_t(left[0]) << (8 * i);
      left = left.subspan(1);
    }
    return value;
  }
  std::span<const std::uint8_t> take(std::size_t size) {
    const auto taken = left.first(size < left.size() ? size : left.size());
    left = left.subspan(taken.size());
    return taken;
  }
};

void require(bool ok, const char* what) {
  if (ok) return;
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

// Whether the input decodes.
bool run(std::span<const std::uint8_t> data) {
  Input input{data};
  const std::int64_t width = 1 + input.number(2), height = 1 + input.number(2), margin = input.number(2) % 1025;
  const int cell_exponent = int(input.number(1) % 17) - 4, channels = 1 + int(input.number(1) % 8);
  std::vector<std::span<const std::uint8_t>> payloads;
  std::vector<std::int64_t> counts;
  for (std::uint32_t packets = 1 + input.number(1) % 16; packets > 0; --packets) {
    const std::int64_t count = input.number(2);
    payloads.push_back(input.take(input.number(2)));
    const std::int64_t most = 2 * std::int64_t(payloads.back().size()) + 1024;  // as the container has it
    counts.push_back(count < most ? count : most);
  }
  codec::Decoded decoded;
  codec::Grid grid;
  try {
    grid = codec::make_grid(width, height, cell_exponent, int(margin));
    decoded = codec::decode_packets(payloads, counts, channels, grid);
  } catch (const std::invalid_argument&) {
    return false;
  }
  try {
    std::vector<std::int64_t> order;
    const auto encoded = codec::encode_packets(decoded.rows, counts, channels, grid, order);
    payloads.assign(encoded.begin(), encoded.end());
    require(codec::decode_packets(payloads, counts, channels, grid).rows == decoded.rows,
            "what was decoded, then encoded, decodes to something else");
  } catch (const std::invalid_argument& error) {
    require(false, error.what());
  }
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  run({data, size});
  return 0;
}

#ifdef SPLAT2D_FUZZ_MAIN
#include <sanitizer/common_interface_defs.h>

#include <fstream>
#include <iterator>
#include <random>

namespace {

unsigned long long seed, mutation;

void tell() { std::fprintf(stderr, "with seed %llu, mutation %llu\n", seed, mutation); }

// A few bits, bytes or runs of bytes changed.
Bytes mutated(const std::vector<Bytes>& corpus) {
  std::mt19937_64 random(seed * 1000003 + mutation);
  const auto below = [&](std::size_t n) { return std::size_t(random() % (n ? n : 1)); };
  Bytes data = corpus[below(corpus.size())];
  for (std::size_t rounds = 1 + below(4); rounds > 0 && !data.empty(); --rounds) {
    const std::size_t at = below(data.size()), length = 1 + below(8);
    const auto here = data.begin() + std::ptrdiff_t(at);
    const auto end = here + std::ptrdiff_t(length < data.size() - at ? length : data.size() - at);
    switch (below(7)) {
      case 0:
        data[at] ^= std::uint8_t(1 << below(8));
        break;
      case 1:
        data[at] = std::uint8_t(random());
        break;
      case 2:
        data[at] = std::uint8_t("\x00\x01\x7f\x80\xff"[below(5)]);
        break;
      case 3:
        data.insert(here, length, std::uint8_t(random()));
        break;
      case 4:
        data.erase(here, end);
        break;
      case 5:
        data.resize(at);
        break;
      default: {
        const Bytes& other = corpus[below(corpus.size())];
        const std::size_t from = below(other.size());
        for (std::size_t i = 0; i < length && at + i < data.size() && from + i < other.size(); ++i)
          data[at + i] = other[from + i];
      }
    }
  }
  return data;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 5) {
    std::fprintf(stderr, "usage: fuzz SEED FIRST COUNT FILE...\n");
    return 2;
  }
  __sanitizer_set_death_callback(tell);
  seed = std::strtoull(arguments[1], nullptr, 10);
  const unsigned long long first = std::strtoull(arguments[2], nullptr, 10);
  const unsigned long long mutations = std::strtoull(arguments[3], nullptr, 10);
  std::vector<Bytes> corpus;
  unsigned long long whole = 0, decoded = 0;
  for (int i = 4; i < count; ++i) {
    std::ifstream file(arguments[i], std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    whole += run(corpus.back());
  }
  for (mutation = first; mutation < first + mutations; ++mutation) decoded += run(mutated(corpus));
  std::printf("%zu files, %llu of them whole; %llu mutations, %llu of them decoded\n", corpus.size(), whole, mutations,
              decoded);
}
#endif
