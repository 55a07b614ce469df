// Which copy of the kernels runs on this machine.
#include <atomic>
#include <stdexcept>

#include "engine.h"
#include "parallel.h"

#if defined(__linux__)
#include <sched.h>
#endif

namespace splat2d {

namespace portable {
extern const InstructionSet instruction_set;
}
#if defined(SPLAT2D_X86)
namespace v2 {
extern const InstructionSet instruction_set;
}
namespace v3 {
extern const InstructionSet instruction_set;
}
namespace v4 {
extern const InstructionSet instruction_set;
}
#endif

std::vector<const InstructionSet*> supported_instruction_sets() {
  std::vector<const InstructionSet*> sets = {&portable::instruction_set};
#if defined(SPLAT2D_X86)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt")) sets.push_back(&v2::instruction_set);
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
    sets.push_back(&v3::instruction_set);
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    sets.push_back(&v4::instruction_set);
#endif
  return sets;
}

static std::atomic<const InstructionSet*> chosen{nullptr};

const InstructionSet& instruction_set() {
  const InstructionSet* set = chosen.load();
  if (!set) chosen = set = supported_instruction_sets().back();
  return *set;
}

const CodecKernels& codec_kernels() { return instruction_set().codec; }

void use_instruction_set(const std::string& name) {
  std::string names;
  for (const InstructionSet* set : supported_instruction_sets()) {
    if (name == set->name) {
      chosen = set;
      return;
    }
    names += std::string(names.empty() ? "" : ", ") + set->name;
  }
  throw std::invalid_argument("instruction set \"" + name + "\" does not run here; these do: " + names);
}

int available_threads() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  const unsigned count = std::thread::hardware_concurrency();
  return count ? int(count) : 1;
}

}  // namespace splat2d
