// A binary range coder on 32-bit integers; docs/format.md, section "Packets", is the norm.
// Encoder and Decoder offer the same code(bit, p): the encoder writes bit, the decoder ignores it and returns the one
// that it reads. So every model is written once, for both directions.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <vector>

// Bits are coded in chains of a few dozen instructions; a call between them costs more than it saves.
#define SPLAT2D_INLINE inline __attribute__((always_inline))

namespace splat2d::codec {

constexpr int kProbabilityBits = 16;
constexpr std::uint32_t kHalf = 1u << (kProbabilityBits - 1);
constexpr std::uint32_t kLeastRange = 1u << 24;

// The part of the range that belongs to bit 1, whose probability is p / 65536, 0 < p < 65536.
inline std::uint32_t share(std::uint32_t range, std::uint32_t p) {
  return std::uint32_t(std::uint64_t(range) * p >> 16);
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

// Small, and its address goes nowhere, so that a copy of it lives in registers while an integer is decoded. The bytes
// must outlive it. Throws std::invalid_argument where a payload ends too early.
class Decoder {
 public:
  static constexpr bool kDecodes = true;

  explicit Decoder(std::span<const std::uint8_t> bytes) : bytes_(bytes.data()), size_(bytes.size()) {
    value_ = std::uint64_t(word(bytes_, size_, 0)) << 32 | word(bytes_, size_, 4);
  }

  // No branches on bits: nobody could predict them.
  SPLAT2D_INLINE int code(int, std::uint32_t p) {
    const std::uint32_t bound = share(range_, p);
    const std::uint64_t high = std::uint64_t(bound) << 32, above = value_ < high ? 0 : ~std::uint64_t(0);
    value_ -= high & above;
    range_ = bound + ((range_ - 2 * bound) & std::uint32_t(above));
    normalize();
    return int(above + 1);
  }

  // As code() with p = kHalf again and again.
  SPLAT2D_INLINE std::uint32_t code_plain(int bits, std::uint32_t) {
    std::uint32_t result = 0;
    for (int i = 0; i < bits; ++i) {
      const std::uint32_t bound = range_ >> 1;
      const std::uint64_t high = std::uint64_t(bound) << 32, above = value_ < high ? 0 : ~std::uint64_t(0);
      value_ -= high & above;
      range_ = bound + (range_ & 1 & std::uint32_t(above));
      result = result << 1 | std::uint32_t(above + 1);
      normalize();
    }
    return result;
  }

  void finish() const {
    if (used() > size_ + kZeros) fail();
    if (used() < size_) throw std::invalid_argument("a packet has bytes after its last splat");
  }

  std::size_t used() const { return at_ - std::size_t(ahead_ / 8); }  // bytes
  std::uint32_t range() const { return range_; }

 private:
  static constexpr std::size_t kZeros = 4;  // may follow the last byte: the look-ahead of a range of 32 bits

  // The range is at least 2^13: it lacks two bytes at most.
  SPLAT2D_INLINE void normalize() {
    const int bits = __builtin_clz(range_) & 24;
    range_ <<= bits;
    value_ <<= bits;
    ahead_ -= bits;
    if (ahead_ < 16) refill();
  }
  SPLAT2D_INLINE void refill() {
    if (used() > size_ + kZeros) fail();
    value_ |= word(bytes_, size_, at_) >> ahead_;
    at_ += std::size_t(4 - ahead_ / 8);
    ahead_ = 32;
  }
  // Four bytes, the highest first; zeros after the end.
  static std::uint32_t word(const std::uint8_t* bytes, std::size_t size, std::size_t at) {
    std::uint32_t result = 0;
    if (at + 4 <= size)
      for (std::size_t i = at; i < at + 4; ++i) result = result << 8 | bytes[i];
    else
      for (std::size_t i = at; i < at + 4; ++i) result = result << 8 | (i < size ? bytes[i] : 0);
    return result;
  }
  [[noreturn]] static void fail() { throw std::invalid_argument("a packet ends within a splat"); }

  const std::uint8_t* bytes_;
  std::size_t size_;
  std::size_t at_ = 8;   // bytes taken, with zeros after the end
  std::uint64_t value_;  // the 32 bits that the page calls code, and those ahead
  int ahead_ = 32;       // bits
  std::uint32_t range_ = 0xFFFFFFFF;
};

}  // namespace splat2d::codec
