// Threads for the length of one call: no pool outlives it, so nothing breaks over a fork.
#pragma once

#include <atomic>
#include <cstddef>
#include <thread>
#include <vector>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace splat2d {

int available_threads();

// Weights far below the cut-off decay through the subnormal range, where some processors are a hundred times slower.
class FlushSubnormals {
 public:
#if defined(__SSE__)
  FlushSubnormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040); }
  ~FlushSubnormals() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#elif defined(__aarch64__)
  FlushSubnormals() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" ::"r"(saved_ | (1ull << 24)));
  }
  ~FlushSubnormals() { asm volatile("msr fpcr, %0" ::"r"(saved_)); }

 private:
  unsigned long long saved_;
#endif
};

// What the threads of one parallel region share.
class Team {
 public:
  explicit Team(int threads) : threads_(threads) {}
  int threads() const { return threads_; }
  // A barrier. Phases of a step last a fraction of a millisecond, so waiting threads spin for about that long before
  // they let others run: waking a thread that sleeps in the kernel costs more than most of these waits.
  void wait() {
    const unsigned round = round_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.fetch_add(1, std::memory_order_release);
      return;
    }
    for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins) {
      if (spins < 4000)
        pause();
      else
        std::this_thread::yield();
    }
  }
  // Runs single() on one thread while the others wait.
  template <class F> void once(int thread, F single) {
    wait();
    if (thread == 0) single();
    wait();
  }

 private:
  static void pause() {
#if defined(__SSE__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  int threads_;
  std::atomic<int> arrived_{0};
  std::atomic<unsigned> round_{0};
};

// Items 0..count-1, dealt to whichever thread asks next.
class Deck {
 public:
  void reset() { next_.store(0, std::memory_order_relaxed); }  // while no thread deals
  template <class F> void deal(std::ptrdiff_t count, F work) {
    for (std::ptrdiff_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count;) work(i);
  }

 private:
  std::atomic<std::ptrdiff_t> next_{0};
};

// work(team, thread) on every thread of a new team. work must not throw.
template <class F> void parallel(int threads, F work) {
  Team team(threads);
  auto body = [&](int thread) {
    FlushSubnormals guard;
    work(team, thread);
  };
  std::vector<std::thread> others;
  others.reserve(threads > 1 ? threads - 1 : 0);
  for (int t = 1; t < threads; ++t) others.emplace_back(body, t);
  body(0);
  for (auto& t : others) t.join();
}

// work(i) for i in 0..count-1, dealt to threads.
template <class F> void parallel_for(int threads, std::ptrdiff_t count, F work) {
  if (count < threads) threads = count < 1 ? 1 : static_cast<int>(count);
  Deck deck;
  parallel(threads, [&](Team&, int) { deck.deal(count, work); });
}

}  // namespace splat2d
