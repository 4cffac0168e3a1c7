#include "threads.hpp"

namespace emberwatch {

Team::Team(int size) {
  for (int member = 1; member < size; ++member) threads_.emplace_back([this, member] { wait_for_work(member); });
}

Team::~Team() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    leaving_ = true;
  }
  work_ready_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Team::run(Work work, void* context, int members) {
  if (members <= 1) return work(context, 0);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    work_ = work;
    context_ = context;
    members_ = members;
    busy_ = members - 1;
    ++round_;
  }
  work_ready_.notify_all();
  work(context, 0);
  std::unique_lock<std::mutex> lock(mutex_);
  work_done_.wait(lock, [this] { return busy_ == 0; });
}

void Team::wait_for_work(int member) {
  std::uint64_t seen = 0;
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    work_ready_.wait(lock, [&] { return leaving_ || round_ != seen; });
    if (leaving_) return;
    seen = round_;
    if (member >= members_) continue;
    lock.unlock();
    work_(context_, member);
    lock.lock();
    if (--busy_ == 0) work_done_.notify_one();
  }
}

}  // namespace emberwatch
