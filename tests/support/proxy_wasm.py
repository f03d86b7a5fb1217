"""A real Wasm filter, from text form: it speaks the Proxy-Wasm ABI and adds a header to each response."""

from string import Template
from typing import Final

import wasmtime

_TEXT: Final = Template("""
(module
  ;; WasmResult proxy_add_header_map_value(type, key, key size, value, value size)
  (import "env" "proxy_add_header_map_value"
    (func $$add_header (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "x-wasm")
  (data (i32.const 16) "$value")
  (global $$free (mut i32) (i32.const 1024))

  (func (export "proxy_abi_version_0_2_1"))
  ;; The host asks for room for what it hands in: a bump allocator that starts anew before its page ends.
  (func (export "proxy_on_memory_allocate") (param $$size i32) (result i32)
    (local $$at i32)
    (if (i32.gt_u (i32.add (global.get $$free) (local.get $$size)) (i32.const 65536))
      (then (global.set $$free (i32.const 1024))))
    (local.set $$at (global.get $$free))
    (global.set $$free (i32.add (local.get $$at) (local.get $$size)))
    (local.get $$at))
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_vm_start") (param i32 i32) (result i32) (i32.const 1))
  (func (export "proxy_on_configure") (param i32 i32) (result i32) (i32.const 1))
  ;; type 2: response headers; the answer 0: go on
  (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32)
    (drop (call $$add_header
      (i32.const 2) (i32.const 0) (i32.const 6) (i32.const 16) (i32.const $length)))
    (i32.const 0))
  (func (export "proxy_on_done") (param i32) (result i32) (i32.const 1))
  (func (export "proxy_on_delete") (param i32))
)
""")


def header_filter(value: str) -> bytes:
    """Return a module that adds `x-wasm: VALUE` to each response."""
    return bytes(wasmtime.wat2wasm(_TEXT.substitute(value=value, length=len(value))))
