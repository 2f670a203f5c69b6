# SPDX-License-Identifier: GPL-2.0
#
# Each target does its own set-up, and calls one script.  "make" tells them.
STOCK ?=
stock := $(if $(filter-out 0,$(STOCK)),--stock)
parts := $(shell check/run --list)
ARCH ?= arm64

help:
	@echo 'make demo             build, boot a stock and a patched KVM, show the difference'
	@echo 'make check            all tests; parts alone:'
	@echo '                      $(parts:%=check-%)' | fold -s -w 70 | sed '2,$$s/^/                      /'
	@echo 'make check-NAME       one part'
	@echo 'make check-debug      arm64 with pages of 16 and 64 KiB'
	@echo 'make modules          build/modules/*.ko, for KERNEL=<release> or KDIR=<tree>; STOCK=1'
	@echo 'make image            build/arm64/Image, a kernel for the lab; STOCK=1; VARIANT=64k'
	@echo 'make load, unload     swap the KVM of the running host for ours, and back (root)'
	@echo 'make bench            stock against patched: build/bench/'
	@echo 'make series           build/series/*.patch, for git am'
	@echo 'make lint             checkpatch, sparse, W=1, kernel-doc, shellcheck'
	@echo 'make tree             build/linux: Linux with the series, a commit a patch'
	@echo 'make clean            remove build/'

setup:
	@./setup

tree: setup
	@patches/assemble

modules: tree
	@modules/build $(stock)

image: tree
	@lab/image $(ARCH) $(VARIANT) $(stock)

# Not "load" first: make has a directive of that name.
unload load:
	@modules/$@

series: tree
	@patches/export

lint: setup
	@patches/lint

demo: setup
	@bench/run --demo

bench: setup
	@bench/run

check: setup
	@check/run

check-debug: setup
	@check/run --debug

$(parts:%=check-%): check-%: setup
	@check/run $*

clean:
	rm -rf build

.PHONY: help setup tree modules image load unload series lint demo bench check check-debug clean $(parts:%=check-%)
