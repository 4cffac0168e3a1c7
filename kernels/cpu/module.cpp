// The Python module `kernels.cpu._step`: checks the operands, spreads a batch over the threads, lets the GIL go.
//
// Tensors come as addresses; kernels/cpu/backend.py has checked their types, shapes and contiguity.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <atomic>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "layout.hpp"
#include "threads.hpp"

namespace py = pybind11;

namespace emberwatch {
namespace {

// Those that this processor can run, best first.
std::vector<const Kernel*> runnable_kernels() {
  std::vector<const Kernel*> all;
#if defined(__x86_64__)
  all = {&kAvx512, &kAvx2};
#endif
  all.push_back(&kPortable);
  std::vector<const Kernel*> runnable;
  for (const Kernel* kernel : all)
    if (kernel->supported()) runnable.push_back(kernel);
  return runnable;
}

const Kernel& kernel_named(const std::string& name) {
  for (const Kernel* kernel : runnable_kernels())
    if (name == kernel->name) return *kernel;
  throw std::invalid_argument("this processor cannot run instruction set '" + name + "'");
}

template <class T>
T* pointer(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// Vehicles [first, last) that one thread carries through the network, at most kBlockRows rows at a time.
struct Task {
  std::int64_t first, last;
};

class Stepper {
 public:
  Stepper(const Sizes& sizes, std::uintptr_t packed, std::size_t n_floats, const std::string& isa, int threads)
      : network_(sizes, pointer<const float>(packed), n_floats), kernel_(kernel_named(isa)), team_(threads) {
    for (int member = 0; member < team_.size(); ++member) workspaces_.emplace_back(new Workspace(sizes));
  }

  int threads() const { return team_.size(); }

  void advance(std::uintptr_t conv_state, std::uintptr_t ssm_state, std::int64_t n_slots, std::uintptr_t slots,
               std::uintptr_t lengths, std::int64_t vehicles, std::uintptr_t features, std::uintptr_t ratio,
               std::uintptr_t out, bool last_only) {
    const std::lock_guard<std::mutex> one_call_at_a_time(mutex_);
    plan(pointer<const std::int64_t>(slots), pointer<const std::int64_t>(lengths), vehicles, n_slots);
    batch_ = {pointer<float>(conv_state),       pointer<float>(ssm_state),    pointer<const std::int64_t>(slots),
              starts_.data(),                   pointer<const float>(features), pointer<const float>(ratio),
              pointer<float>(out),              last_only};
    next_task_ = 0;
    const int members = int(tasks_.size()) < team_.size() ? int(tasks_.size()) : team_.size();
    const auto work = [](void* self, int member) { static_cast<Stepper*>(self)->work(member); };
    if (members > 0) team_.run(work, this, members);
  }

 private:
  // Cuts the batch into tasks of about equal numbers of rows. `lengths` null: one row each.
  void plan(const std::int64_t* slots, const std::int64_t* lengths, std::int64_t vehicles, std::int64_t n_slots) {
    // Both vectors keep their memory: after the largest batch so far, a call allocates nothing.
    starts_.assign(1, 0);
    tasks_.clear();
    for (std::int64_t i = 0; i < vehicles; ++i) {
      if (slots[i] < 0 || slots[i] >= n_slots) {
        throw py::index_error("slot " + std::to_string(slots[i]) + " is not in the pool");
      }
      const std::int64_t length = lengths == nullptr ? 1 : lengths[i];
      if (length < 0) throw std::invalid_argument("a length must not be negative");
      starts_.push_back(starts_.back() + length);
    }
    const std::int64_t rows = starts_.back(), team = team_.size();
    // Whole rounds of the team: 240 rows on two threads are ten tasks of 24, 30 rows are two of 15.
    const std::int64_t rounds = (rows + team * kBlockRows - 1) / (team * kBlockRows);
    const std::int64_t share = rounds == 0 ? 0 : (rows + rounds * team - 1) / (rounds * team);
    for (std::int64_t first = 0, last = 0; first < vehicles; first = last) {
      while (last < vehicles && (last == first || starts_[last + 1] - starts_[first] <= share)) ++last;
      if (starts_[last] > starts_[first]) tasks_.push_back({first, last});
    }
  }

  void work(int member) {
    for (std::size_t i = next_task_++; i < tasks_.size(); i = next_task_++) {
      std::int64_t vehicle = tasks_[i].first;
      const std::int64_t end = starts_[tasks_[i].last];
      for (std::int64_t row = starts_[vehicle]; row < end;) {
        while (starts_[vehicle + 1] <= row) ++vehicle;
        const int rows = end - row < kBlockRows ? int(end - row) : kBlockRows;
        kernel_.advance(network_, batch_, vehicle, row, rows, *workspaces_[member]);
        row += rows;
      }
    }
  }

  Network network_;
  const Kernel& kernel_;
  std::vector<std::unique_ptr<Workspace>> workspaces_;
  std::mutex mutex_;
  std::vector<std::int64_t> starts_;
  std::vector<Task> tasks_;
  Batch batch_{};
  std::atomic<std::size_t> next_task_{0};
  Team team_;  // last: its threads are gone before what they use
};

// Every segment of every sequence, over fresh threads: a call takes milliseconds, starting them microseconds.
void training_scan(TrainingScan scan, bool backward, const std::string& isa, int threads) {
  const Kernel& kernel = kernel_named(isa);
  std::atomic<int> next{0};
  std::atomic<bool> good{true};
  const auto work = [&] {
    for (int i = next++; i < scan.sequences * scan.segments; i = next++) {
      if (!kernel.train(scan, backward, i / scan.segments, i % scan.segments)) good = false;
    }
  };
  std::vector<std::thread> others;
  for (int i = 1; i < threads && i < scan.sequences * scan.segments; ++i) others.emplace_back(work);
  work();
  for (std::thread& other : others) other.join();
  if (!good) throw std::invalid_argument("d_state must be 16, 32, 64 or 128");
}

void scan_forward(const std::array<int, 5>& sizes, const std::array<std::uintptr_t, 9>& at, const std::string& isa,
                  int threads) {
  TrainingScan scan{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]};
  scan.u = pointer<const float>(at[0]), scan.dt = pointer<const float>(at[1]), scan.dt_in = pointer<const float>(at[2]);
  scan.A = pointer<const float>(at[3]), scan.B = pointer<const float>(at[4]), scan.C = pointer<const float>(at[5]);
  scan.last = pointer<float>(at[6]), scan.y = pointer<float>(at[7]), scan.checkpoints = pointer<float>(at[8]);
  training_scan(scan, false, isa, threads);
}

void scan_backward(const std::array<int, 5>& sizes, const std::array<std::uintptr_t, 15>& at, const std::string& isa,
                   int threads) {
  TrainingScan scan{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]};
  scan.u = pointer<const float>(at[0]), scan.dt = pointer<const float>(at[1]), scan.dt_in = pointer<const float>(at[2]);
  scan.A = pointer<const float>(at[3]), scan.B = pointer<const float>(at[4]), scan.C = pointer<const float>(at[5]);
  scan.checkpoints = pointer<float>(at[6]), scan.d_y = pointer<const float>(at[7]);
  scan.d_u = pointer<float>(at[8]), scan.d_dt = pointer<float>(at[9]), scan.d_dt_in = pointer<float>(at[10]);
  scan.d_B = pointer<float>(at[11]), scan.d_C = pointer<float>(at[12]), scan.d_A = pointer<float>(at[13]);
  scan.d_initial = pointer<float>(at[14]);
  training_scan(scan, true, isa, threads);
}

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const Kernel* kernel : runnable_kernels()) names.emplace_back(kernel->name);
  return names;
}

}  // namespace
}  // namespace emberwatch

PYBIND11_MODULE(_step, module) {
  using namespace emberwatch;
  module.def("instruction_sets", &instruction_sets);
  module.def("scan_forward", &scan_forward, py::call_guard<py::gil_scoped_release>());
  module.def("scan_backward", &scan_backward, py::call_guard<py::gil_scoped_release>());
  module.def("lanes", [](const std::string& isa) { return kernel_named(isa).lanes; });
  py::class_<Sizes>(module, "Sizes")
      .def(py::init<int, int, int, int, int, int, int, int, float, float>(), py::arg("d_input"), py::arg("n_channels"),
           py::arg("d_model"), py::arg("n_layer"), py::arg("d_state"), py::arg("d_conv"), py::arg("d_inner"),
           py::arg("dt_rank"), py::arg("max_hold_ratio"), py::arg("norm_eps"));
  py::class_<Stepper>(module, "Stepper")
      .def(py::init<const Sizes&, std::uintptr_t, std::size_t, const std::string&, int>())
      .def_property_readonly("threads", &Stepper::threads)
      .def("advance", &Stepper::advance, py::call_guard<py::gil_scoped_release>());
}
