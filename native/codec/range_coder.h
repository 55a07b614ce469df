// A binary range coder on 32-bit integers; docs/format.md, section "Packets", is the norm.
// Encoder and Decoder offer the same code(bit, p): the encoder writes bit, the decoder ignores it and returns the one
// that it reads. So every model is written once, for both directions.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <vector>

namespace splat2d::codec {

constexpr int kProbabilityBits = 16;
constexpr std::uint32_t kHalf = 1u << (kProbabilityBits - 1);
constexpr std::uint32_t kLeastRange = 1u << 24;

// The part of the range that belongs to bit 1, whose probability is p / 65536, 0 < p < 65536.
inline std::uint32_t share(std::uint32_t range, std::uint32_t p) {
  return (range >> 16) * p + (((range & 0xFFFF) * p) >> 16);
}

class Encoder {
 public:
  static constexpr bool kDecodes = false;

  int code(int bit, std::uint32_t p) {
    const std::uint32_t bound = share(range_, p);
    if (bit) {
      range_ = bound;
    } else {
      low_ += bound;
      range_ -= bound;
    }
    while (range_ < kLeastRange) {
      shift();
      range_ <<= 8;
    }
    return bit;
  }

  // Bits that are 1 or 0 with equal chances, the highest first.
  std::uint32_t code_plain(int bits, std::uint32_t value) {
    for (int i = bits - 1; i >= 0; --i) code(int(value >> i & 1), kHalf);
    return value & ((1u << bits) - 1);
  }

  // Ends the payload with the fewest bytes that, zeros after them, lie in the range.
  std::vector<std::uint8_t> finish() {
    for (int bytes = 0; bytes <= 4; ++bytes) {
      const std::uint64_t mask = (std::uint64_t(1) << (32 - 8 * bytes)) - 1;
      const std::uint64_t value = (low_ + mask) & ~mask;
      if (value - low_ < range_) {
        low_ = value;
        for (int i = 0; i < bytes; ++i) shift();
        if (low_ >> 32) carry();
        break;
      }
    }
    return std::move(bytes_);
  }

 private:
  void shift() {
    if (low_ >> 32) carry();
    bytes_.push_back(std::uint8_t(low_ >> 24));
    low_ = (low_ << 8) & 0xFFFFFFFF;
  }
  void carry() {
    for (std::size_t i = bytes_.size(); i-- > 0 && ++bytes_[i] == 0;) {
    }
    low_ &= 0xFFFFFFFF;
  }

  std::uint64_t low_ = 0;  // bit 32 is a carry
  std::uint32_t range_ = 0xFFFFFFFF;
  std::vector<std::uint8_t> bytes_;
};

// Throws std::invalid_argument where a payload ends too early.
class Decoder {
 public:
  static constexpr bool kDecodes = true;

  explicit Decoder(std::span<const std::uint8_t> bytes) : bytes_(bytes.begin(), bytes.end()), size_(bytes.size()) {
    bytes_.resize(size_ + kZeros + 4, 0);
    code_ = four();
    at_ = 4;
  }

  // No branches: nobody could predict them.
  int code(int, std::uint32_t p) {
    const std::uint32_t bound = share(range_, p), above = code_ < bound ? 0 : ~0u;
    code_ -= bound & above;
    range_ = bound + ((range_ - 2 * bound) & above);
    normalize();
    return int(above + 1);
  }

  // As code() with p = kHalf again and again.
  std::uint32_t code_plain(int bits, std::uint32_t) {
    std::uint32_t result = 0;
    for (int i = 0; i < bits; ++i) {
      const std::uint32_t bound = range_ >> 1, above = code_ < bound ? 0 : ~0u;
      code_ -= bound & above;
      range_ = bound + (range_ & 1 & above);
      result = result << 1 | (above + 1);
      normalize();
    }
    return result;
  }

  void finish() const {
    if (at_ < size_) throw std::invalid_argument("a packet has bytes after its last splat");
  }

  // Bits used so far, whole and parts.
  double position() const { return 8.0 * double(at_) - std::log2(float(range_)); }

 private:
  static constexpr std::size_t kZeros = 4;  // may follow the last byte: the look-ahead of a range of 32 bits

  // The range is at least 2^13: it lacks two bytes at most.
  void normalize() {
    const int bytes = (range_ < kLeastRange) + (range_ < kLeastRange >> 8);
    code_ = std::uint32_t((std::uint64_t(code_) << 32 | four()) >> (32 - 8 * bytes));
    range_ <<= 8 * bytes;
    at_ += std::size_t(bytes);
    if (at_ > size_ + kZeros) throw std::invalid_argument("a packet ends within a splat");
  }
  std::uint32_t four() const {
    const std::uint8_t* b = &bytes_[at_];
    return std::uint32_t(b[0]) << 24 | std::uint32_t(b[1]) << 16 | std::uint32_t(b[2]) << 8 | b[3];
  }

  std::vector<std::uint8_t> bytes_;
  std::size_t size_;  // without the zeros
  std::size_t at_ = 0;
  std::uint32_t code_ = 0;
  std::uint32_t range_ = 0xFFFFFFFF;
};

}  // namespace splat2d::codec
