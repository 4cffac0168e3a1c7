// Preloaded into the store: writes down how long each file was when an fsync of it that succeeded began.
// Everything beyond that is what a power cut takes, so a test can cut the power by a kill and a truncation.
//
// EMBERWATCH_FSYNC_LEDGER names the file that gets one line per fsync: inode and size.
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace {

int synced(const char* name, int fd) {
    struct stat before {};
    const bool known = fstat(fd, &before) == 0 && S_ISREG(before.st_mode);
    using Sync = int (*)(int);
    const int result = reinterpret_cast<Sync>(dlsym(RTLD_NEXT, name))(fd);
    const char* ledger = std::getenv("EMBERWATCH_FSYNC_LEDGER");
    if (result == 0 && known && ledger != nullptr) {
        char line[64];
        const int length = std::snprintf(line, sizeof line, "%llu %lld\n", static_cast<unsigned long long>(before.st_ino),
                                         static_cast<long long>(before.st_size));
        const int out = open(ledger, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (out >= 0) {
            if (write(out, line, static_cast<size_t>(length)) != length) std::abort();
            close(out);
        }
    }
    return result;
}

}  // namespace

extern "C" int fsync(int fd) { return synced("fsync", fd); }
extern "C" int fdatasync(int fd) { return synced("fdatasync", fd); }
