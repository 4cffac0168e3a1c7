// A team of threads that outlives the calls.
//
// Not OpenMP: torch brings its own copy of that runtime, and two of them in one process keep spinning against each
// other. A team does not survive a fork; build the network after it.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace emberwatch {

class Team {
 public:
  using Work = void (*)(void* context, int member);

  // The caller of `run` is member 0; the other `size - 1` wait for it, asleep.
  explicit Team(int size);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return static_cast<int>(threads_.size()) + 1; }

  // Calls work(context, member) once on each of the first `members` members; returns when all have come back.
  void run(Work work, void* context, int members);

 private:
  void wait_for_work(int member);

  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable work_ready_, work_done_;
  Work work_ = nullptr;
  void* context_ = nullptr;
  std::uint64_t round_ = 0;
  int members_ = 0;  // of this round
  int busy_ = 0;     // of those, still at work
  bool leaving_ = false;
};

}  // namespace emberwatch
