// A C interface to Gloo (https://github.com/facebookincubator/gloo): a full mesh over TCP and the few
// collectives that training needs. No exception leaves a function: it returns 0, or 1 with the
// message in `error`.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <gloo/allgather.h>
#include <gloo/allreduce.h>
#include <gloo/barrier.h>
#include <gloo/broadcast.h>
#include <gloo/math.h>
#include <gloo/rendezvous/context.h>
#include <gloo/rendezvous/store.h>
#include <gloo/transport/tcp/device.h>

extern "C" {
// The store where ranks meet, served by the caller. Each answers 0, or 1 for an error.
struct trainer_store {
  void* user;
  int (*set)(void* user, const char* key, size_t key_len, const char* data, size_t data_len);
  // The value's bytes are handed to `give(sink, …)`.
  int (*get)(void* user, const char* key, size_t key_len, void* sink,
             void (*give)(void* sink, const char* data, size_t len));
  int (*wait)(void* user, const char* key, size_t key_len, long timeout_ms);
};
}

namespace {

using std::chrono::milliseconds;

class CallerStore : public gloo::rendezvous::Store {
 public:
  CallerStore(const trainer_store& store, milliseconds timeout) : store_(store), timeout_(timeout) {}

  void set(const std::string& key, const std::vector<char>& data) override {
    check(store_.set(store_.user, key.data(), key.size(), data.data(), data.size()));
  }

  std::vector<char> get(const std::string& key) override {
    std::vector<char> value;
    auto give = [](void* sink, const char* data, size_t len) {
      static_cast<std::vector<char>*>(sink)->assign(data, data + len);
    };
    check(store_.get(store_.user, key.data(), key.size(), &value, give));
    return value;
  }

  void wait(const std::vector<std::string>& keys) override { wait(keys, timeout_); }

  void wait(const std::vector<std::string>& keys, const milliseconds& timeout) override {
    for (const auto& key : keys) {
      check(store_.wait(store_.user, key.data(), key.size(), static_cast<long>(timeout.count())));
    }
  }

 private:
  static void check(int failed) {
    if (failed) throw std::runtime_error("the store failed");
  }

  trainer_store store_;
  milliseconds timeout_;
};

struct Group {
  std::shared_ptr<gloo::rendezvous::Context> context;
  std::shared_ptr<gloo::transport::Device> device;
  uint32_t tag = 0;
};

int guarded(char* error, size_t error_len, const std::function<void()>& body) {
  const char* what = "unknown";
  std::string text;
  try {
    body();
    return 0;
  } catch (const std::exception& e) {
    text = e.what();
    what = text.c_str();
  } catch (...) {
  }
  if (error_len > 0) {
    std::strncpy(error, what, error_len - 1);
    error[error_len - 1] = 0;
  }
  return 1;
}

template <typename T>
void all_reduce(Group* group, T* data, size_t n, int greatest) {
  gloo::AllreduceOptions options(group->context);
  options.setOutput(data, n);
  options.setTag(group->tag++);
  // The ring's order of additions depends on the number of ranks alone, and all ranks receive the
  // same sums.
  options.setAlgorithm(gloo::AllreduceOptions::Algorithm::RING);
  if (greatest) {
    options.setReduceFunction(static_cast<void (*)(void*, const void*, const void*, size_t)>(&gloo::max<T>));
  } else {
    options.setReduceFunction(static_cast<void (*)(void*, const void*, const void*, size_t)>(&gloo::sum<T>));
  }
  gloo::allreduce(options);
}

}  // namespace

extern "C" {

int trainer_gloo_connect(int rank, int size, const char* host, const char* interface_name,
                         long timeout_ms, const trainer_store* store, void** out, char* error,
                         size_t error_len) {
  return guarded(error, error_len, [&] {
    gloo::transport::tcp::attr attr;
    attr.hostname = host;
    attr.iface = interface_name;
    std::unique_ptr<Group> group(new Group);
    group->device = gloo::transport::tcp::CreateDevice(attr);
    group->context = std::make_shared<gloo::rendezvous::Context>(rank, size);
    group->context->setTimeout(milliseconds(timeout_ms));
    CallerStore meeting(*store, milliseconds(timeout_ms));
    group->context->connectFullMesh(meeting, group->device);
    *out = group.release();
  });
}

int trainer_gloo_all_reduce_f32(void* group, float* data, size_t n, int greatest, char* error,
                                size_t error_len) {
  return guarded(error, error_len,
                 [&] { all_reduce(static_cast<Group*>(group), data, n, greatest); });
}

int trainer_gloo_all_reduce_f64(void* group, double* data, size_t n, int greatest, char* error,
                                size_t error_len) {
  return guarded(error, error_len,
                 [&] { all_reduce(static_cast<Group*>(group), data, n, greatest); });
}

int trainer_gloo_all_gather(void* group, const unsigned char* own, size_t n, unsigned char* all,
                            char* error, size_t error_len) {
  return guarded(error, error_len, [&] {
    auto* g = static_cast<Group*>(group);
    gloo::AllgatherOptions options(g->context);
    // Gloo reads the input only.
    options.setInput(const_cast<unsigned char*>(own), n);
    options.setOutput(all, n * g->context->size);
    options.setTag(g->tag++);
    gloo::allgather(options);
  });
}

int trainer_gloo_broadcast(void* group, unsigned char* data, size_t n, int root, char* error,
                           size_t error_len) {
  return guarded(error, error_len, [&] {
    auto* g = static_cast<Group*>(group);
    gloo::BroadcastOptions options(g->context);
    options.setOutput(data, n);
    options.setRoot(root);
    options.setTag(g->tag++);
    gloo::broadcast(options);
  });
}

int trainer_gloo_barrier(void* group, char* error, size_t error_len) {
  return guarded(error, error_len, [&] {
    auto* g = static_cast<Group*>(group);
    gloo::BarrierOptions options(g->context);
    options.setTag(g->tag++);
    gloo::barrier(options);
  });
}

}  // extern "C"
