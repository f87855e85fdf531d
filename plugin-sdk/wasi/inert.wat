;; Stands in for `wasi_snapshot_preview1` in plugins of languages whose runtime insists on it (C++, Go,
;; at times C). Given to the component encoder as the adapter of that module, it becomes part of the
;; component, which then imports nothing but the trainer's log.
;;
;; There is nothing behind it: no argument and no environment, no file (every descriptor is bad, every
;; path denied), a clock that only counts its calls, "random" bytes of a fixed generator. Output is
;; swallowed. So a plugin stays a pure function of its input.
;;
;; Errors: 8 badf, 52 nosys, 63 perm. Assembled: inert.wasm (a test compares them).
(module
  (import "env" "memory" (memory 0))
  (global $ticks (mut i64) (i64.const 0))
  (global $seed (mut i64) (i64.const 0x9E3779B97F4A7C15))

  ;; Arguments and environment: none.
  (func (export "args_get") (param i32 i32) (result i32) i32.const 0)
  (func (export "args_sizes_get") (param $count i32) (param $bytes i32) (result i32)
    (i32.store (local.get $count) (i32.const 0))
    (i32.store (local.get $bytes) (i32.const 0))
    i32.const 0)
  (func (export "environ_get") (param i32 i32) (result i32) i32.const 0)
  (func (export "environ_sizes_get") (param $count i32) (param $bytes i32) (result i32)
    (i32.store (local.get $count) (i32.const 0))
    (i32.store (local.get $bytes) (i32.const 0))
    i32.const 0)

  ;; Time: a microsecond a call.
  (func (export "clock_res_get") (param i32) (param $out i32) (result i32)
    (i64.store (local.get $out) (i64.const 1000))
    i32.const 0)
  (func (export "clock_time_get") (param i32 i64) (param $out i32) (result i32)
    (global.set $ticks (i64.add (global.get $ticks) (i64.const 1000)))
    (i64.store (local.get $out) (global.get $ticks))
    i32.const 0)

  ;; Randomness: a xorshift generator with a fixed seed.
  (func (export "random_get") (param $at i32) (param $left i32) (result i32)
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $left)))
        (global.set $seed (i64.xor (global.get $seed) (i64.shl (global.get $seed) (i64.const 13))))
        (global.set $seed (i64.xor (global.get $seed) (i64.shr_u (global.get $seed) (i64.const 7))))
        (global.set $seed (i64.xor (global.get $seed) (i64.shl (global.get $seed) (i64.const 17))))
        (i32.store8 (local.get $at) (i32.wrap_i64 (i64.shr_u (global.get $seed) (i64.const 32))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (local.set $left (i32.sub (local.get $left) (i32.const 1)))
        (br $next)))
    i32.const 0)

  ;; Output: all of it is taken, none of it goes anywhere.
  (func (export "fd_write") (param i32) (param $vectors i32) (param $count i32) (param $out i32)
      (result i32) (local $bytes i32)
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $count)))
        (local.set $bytes
          (i32.add (local.get $bytes) (i32.load offset=4 (local.get $vectors))))
        (local.set $vectors (i32.add (local.get $vectors) (i32.const 8)))
        (local.set $count (i32.sub (local.get $count) (i32.const 1)))
        (br $next)))
    (i32.store (local.get $out) (local.get $bytes))
    i32.const 0)

  ;; Waiting: everything has happened at once.
  (func (export "poll_oneoff") (param i32) (param $events i32) (param $count i32) (param $out i32)
      (result i32)
    (memory.fill (local.get $events) (i32.const 0) (i32.mul (local.get $count) (i32.const 32)))
    (i32.store (local.get $out) (local.get $count))
    i32.const 0)
  (func (export "sched_yield") (result i32) i32.const 0)

  ;; The end.
  (func (export "proc_exit") (param i32) unreachable)
  (func (export "proc_raise") (param i32) (result i32) unreachable)

  ;; Descriptors: none is open.
  (func (export "fd_advise") (param i32 i64 i64 i32) (result i32) i32.const 8)
  (func (export "fd_allocate") (param i32 i64 i64) (result i32) i32.const 8)
  (func (export "fd_close") (param i32) (result i32) i32.const 8)
  (func (export "fd_datasync") (param i32) (result i32) i32.const 8)
  (func (export "fd_fdstat_get") (param i32 i32) (result i32) i32.const 8)
  (func (export "fd_fdstat_set_flags") (param i32 i32) (result i32) i32.const 8)
  (func (export "fd_fdstat_set_rights") (param i32 i64 i64) (result i32) i32.const 8)
  (func (export "fd_filestat_get") (param i32 i32) (result i32) i32.const 8)
  (func (export "fd_filestat_set_size") (param i32 i64) (result i32) i32.const 8)
  (func (export "fd_filestat_set_times") (param i32 i64 i64 i32) (result i32) i32.const 8)
  (func (export "fd_pread") (param i32 i32 i32 i64 i32) (result i32) i32.const 8)
  (func (export "fd_prestat_dir_name") (param i32 i32 i32) (result i32) i32.const 8)
  (func (export "fd_prestat_get") (param i32 i32) (result i32) i32.const 8)
  (func (export "fd_pwrite") (param i32 i32 i32 i64 i32) (result i32) i32.const 8)
  (func (export "fd_read") (param i32 i32 i32 i32) (result i32) i32.const 8)
  (func (export "fd_readdir") (param i32 i32 i32 i64 i32) (result i32) i32.const 8)
  (func (export "fd_renumber") (param i32 i32) (result i32) i32.const 8)
  (func (export "fd_seek") (param i32 i64 i32 i32) (result i32) i32.const 8)
  (func (export "fd_sync") (param i32) (result i32) i32.const 8)
  (func (export "fd_tell") (param i32 i32) (result i32) i32.const 8)

  ;; Paths: none may be reached.
  (func (export "path_create_directory") (param i32 i32 i32) (result i32) i32.const 63)
  (func (export "path_filestat_get") (param i32 i32 i32 i32 i32) (result i32) i32.const 63)
  (func (export "path_filestat_set_times") (param i32 i32 i32 i32 i64 i64 i32) (result i32)
    i32.const 63)
  (func (export "path_link") (param i32 i32 i32 i32 i32 i32 i32) (result i32) i32.const 63)
  (func (export "path_open") (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32) i32.const 63)
  (func (export "path_readlink") (param i32 i32 i32 i32 i32 i32) (result i32) i32.const 63)
  (func (export "path_remove_directory") (param i32 i32 i32) (result i32) i32.const 63)
  (func (export "path_rename") (param i32 i32 i32 i32 i32 i32) (result i32) i32.const 63)
  (func (export "path_symlink") (param i32 i32 i32 i32 i32) (result i32) i32.const 63)
  (func (export "path_unlink_file") (param i32 i32 i32) (result i32) i32.const 63)

  ;; Sockets: there are none.
  (func (export "sock_accept") (param i32 i32 i32) (result i32) i32.const 52)
  (func (export "sock_recv") (param i32 i32 i32 i32 i32 i32) (result i32) i32.const 52)
  (func (export "sock_send") (param i32 i32 i32 i32 i32) (result i32) i32.const 52)
  (func (export "sock_shutdown") (param i32 i32) (result i32) i32.const 52))
