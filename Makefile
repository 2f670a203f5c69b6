# SPDX-License-Identifier: GPL-2.0
#
# Each target does its own set-up and calls one script.  "make" lists the targets.
STOCK ?=
stock := $(if $(filter-out 0,$(STOCK)),--stock)
parts := $(shell check/run --list)
ARCH ?= arm64

help:
	@echo 'make demo             build, boot a stock and a patched KVM, show the difference'
	@echo 'make check            the tests that a change must pass; to run one part:'
	@echo '                      $(parts:%=check-%)' | fold -s -w 70 | sed '2,$$s/^/                      /'
	@echo 'make check-NAME       one part; check/run -h describes the parts'
	@echo 'make check-release    all parts, the slow ones too'
	@echo 'make modules          build/modules/*.ko, for KERNEL=<release> or KDIR=<tree>; STOCK=1'
	@echo 'make guest-module     build/modules-guest/kvm_async_pf.ko, for an arm64 guest; KDIR=<tree>'
	@echo 'make image            build/arm64/Image, a kernel for the lab; STOCK=1; VARIANT=64k;'
	@echo '                      ARCH=x86_64 VARIANT=debug, with KASAN and lockdep'
	@echo 'make load, unload     swap the KVM of the running host for ours, and back (root)'
	@echo 'make bench            stock KVM against patched KVM: build/bench/'
	@echo 'make series           build/series/*.patch, for git am; TOPIC=<topic> for one topic'
	@echo 'make lint             checkpatch, sparse, W=1, kernel-doc, shellcheck'
	@echo 'make tree             build/linux: Linux with the series, one commit per patch'
	@echo 'make clean            remove build/'
	@echo
	@echo 'One selftest in one machine, after "make modules" or "make image":'
	@echo '  lab/test x86-svm --only dirty_log_test      (lab/run --list shows the machines)'

setup:
	@./setup

tree: setup
	@scripts/assemble

modules: $(if $(KERNEL)$(KDIR),setup,tree)
	@modules/build $(stock)

guest-module: tree
	@modules/guest

image: tree
	@lab/kernels/image $(ARCH) $(VARIANT) $(stock)

# Not "load" first: make has a directive of that name.
unload load:
	@modules/$@

series: tree
	@scripts/export $(TOPIC)

lint: tree
	@scripts/lint

demo: setup
	@bench/run --demo

bench: setup
	@bench/run

check: setup
	@check/run

check-release: setup
	@check/run --release

$(parts:%=check-%): check-%: setup
	@check/run $*

clean:
	rm -rf build

.PHONY: help setup tree modules guest-module image load unload series lint demo bench check check-release clean $(parts:%=check-%)
