/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Guest memory whose pages a userfaultfd handler holds back.
 *
 * The pages have a number each, and the first word of page n is n + 1.
 */
#ifndef SELFTEST_KVM_HELD_PAGES_H
#define SELFTEST_KVM_HELD_PAGES_H

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "kvm_util.h"
#include "test_util.h"

struct held_pages {
	void *mem;
	int nr;
	size_t size;		/* of a page */
	int uffd;
	__u64 copy_mode;	/* for UFFDIO_COPY */
	pthread_t server;

	int hold;		/* so many events are not answered */
	int max_delay;		/* the others within so many microseconds */
	int nr_events;
	struct uffd_msg first_event;
};

static inline void install_page(struct held_pages *pages, int page)
{
	uint64_t *contents = calloc(1, pages->size);
	struct uffdio_copy copy = {
		.dst = (uintptr_t)pages->mem + page * pages->size,
		.src = (uintptr_t)contents,
		.len = pages->size,
		.mode = pages->copy_mode,
	};

	contents[0] = page + 1;
	TEST_ASSERT(!ioctl(pages->uffd, UFFDIO_COPY, &copy) || errno == EEXIST,
		    __KVM_IOCTL_ERROR(UFFDIO_COPY, -1));
	free(contents);
}

static inline void install_all_pages(struct held_pages *pages)
{
	for (int page = 0; page < pages->nr; page++)
		install_page(pages, page);
}

/* A thread that installs the first page when others have had time to wait for it */
static inline void *install_soon(void *pages)
{
	usleep(100000);
	install_page(pages, 0);
	return NULL;
}

static inline void *serve_pages(void *arg)
{
	struct held_pages *pages = arg;
	struct uffd_msg msg;
	unsigned int seed = 1;

	while (read(pages->uffd, &msg, sizeof(msg)) == sizeof(msg)) {
		if (!pages->nr_events)
			pages->first_event = msg;
		/* Pairs with wait_for_events(). */
		__atomic_store_n(&pages->nr_events, pages->nr_events + 1, __ATOMIC_RELEASE);
		if (pages->nr_events <= __atomic_load_n(&pages->hold, __ATOMIC_RELAXED))
			continue;
		if (pages->max_delay)
			usleep(rand_r(&seed) % pages->max_delay);
		install_page(pages, (msg.arg.pagefault.address - (uintptr_t)pages->mem) /
				    pages->size);
	}
	return NULL;
}

/* The server doesn't answer the first @nr events, but all that follow. */
static inline void hold_events(struct held_pages *pages, int nr)
{
	__atomic_store_n(&pages->hold, nr, __ATOMIC_RELAXED);
}

static inline void wait_for_events(struct held_pages *pages, int nr)
{
	while (__atomic_load_n(&pages->nr_events, __ATOMIC_ACQUIRE) < nr)
		usleep(1000);
}

/* Hold @nr pages from @mem on back.  @mode is as in struct uffdio_register. */
static inline void hold_pages(struct held_pages *pages, void *mem, int nr, size_t size, __u64 mode)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = mode & UFFDIO_REGISTER_MODE_WP ? UFFD_FEATURE_PAGEFAULT_FLAG_WP : 0,
	};
	struct uffdio_register reg = {
		.range = { (uintptr_t)mem, nr * size },
		.mode = mode,
	};

	pages->mem = mem;
	pages->nr = nr;
	pages->size = size;
	pages->uffd = syscall(__NR_userfaultfd, O_CLOEXEC);
	TEST_ASSERT(pages->uffd >= 0, __KVM_SYSCALL_ERROR("userfaultfd()", pages->uffd));
	TEST_ASSERT(!ioctl(pages->uffd, UFFDIO_API, &api), __KVM_IOCTL_ERROR(UFFDIO_API, -1));
	TEST_ASSERT(!ioctl(pages->uffd, UFFDIO_REGISTER, &reg),
		    __KVM_IOCTL_ERROR(UFFDIO_REGISTER, -1));
	hold_events(pages, nr);
	pthread_create(&pages->server, NULL, serve_pages, pages);
}

/* Let the last page be behind the end of a file, where no handler is asked for it. */
static inline void truncate_last_page(struct held_pages *pages)
{
	int memfd = memfd_create("truncated", 0);
	void *mem = mmap(pages->mem + --pages->nr * pages->size, pages->size,
			 PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memfd, 0);

	TEST_ASSERT(mem != MAP_FAILED, __KVM_SYSCALL_ERROR("mmap()", -1));
	close(memfd);
}

/* Stop the server, and install all pages, before the VM is destroyed. */
static inline void stop_server(struct held_pages *pages)
{
	/* It sleeps in read(), or installs a page, and then sleeps there. */
	pthread_cancel(pages->server);
	pthread_join(pages->server, NULL);
	/* Faults that KVM's workers have not come to yet need no server then. */
	install_all_pages(pages);
}

/* Get a process' file descriptor. */
static inline int get_fd(int pid, int fd)
{
	int pidfd = syscall(__NR_pidfd_open, pid, 0);

	TEST_ASSERT(pidfd >= 0, __KVM_SYSCALL_ERROR("pidfd_open()", pidfd));
	fd = syscall(__NR_pidfd_getfd, pidfd, fd, 0);
	TEST_ASSERT(fd >= 0, __KVM_SYSCALL_ERROR("pidfd_getfd()", fd));
	close(pidfd);
	return fd;
}

/* Is any page of the memfd mapped writable? */
static inline bool is_mapped(int memfd)
{
	if (!fcntl(memfd, F_ADD_SEALS, F_SEAL_WRITE))
		return false;
	TEST_ASSERT_EQ(errno, EBUSY);
	return true;
}

/*
 * A VMM is killed while a fault is in flight, and another process has its userfaultfd
 * but doesn't answer.  The VMM ends at once.  Its memory stays until the other process
 * closes the userfaultfd, because KVM holds it while it waits for the page.
 *
 * @vmm is called in a process of its own, and starts a fault.
 */
static inline void kill_vmm(struct held_pages *(*vmm)(void))
{
	int memfd = memfd_create("killed", MFD_ALLOW_SEALING);
	struct held_pages *pages;
	int pipes[2], uffd, pid;
	void *mem;

	TEST_ASSERT(!ftruncate(memfd, getpagesize()), __KVM_SYSCALL_ERROR("ftruncate()", -1));
	TEST_ASSERT(!pipe(pipes), __KVM_SYSCALL_ERROR("pipe()", -1));
	pid = fork();
	TEST_ASSERT(pid >= 0, __KVM_SYSCALL_ERROR("fork()", pid));
	if (!pid) {
		mem = mmap(NULL, getpagesize(), PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
		TEST_ASSERT(mem != MAP_FAILED, __KVM_SYSCALL_ERROR("mmap()", -1));
		pages = vmm();
		wait_for_events(pages, 1);
		TEST_ASSERT(write(pipes[1], &pages->uffd, sizeof(int)) == sizeof(int),
			    __KVM_SYSCALL_ERROR("write()", -1));
		for (;;)
			pause();
	}

	TEST_ASSERT(read(pipes[0], &uffd, sizeof(uffd)) == sizeof(uffd),
		    __KVM_SYSCALL_ERROR("read()", -1));
	uffd = get_fd(pid, uffd);
	kill(pid, SIGKILL);
	TEST_ASSERT_EQ(waitpid(pid, NULL, 0), pid);
	sleep(1);
	TEST_ASSERT(is_mapped(memfd), "The memory is gone before its fault is done");
	close(uffd);
	while (is_mapped(memfd))
		usleep(1000);
}

#endif
