package main

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// runLeash becomes another program that dies with the process that started it: a peer that knows nothing of standard
// input is then not left behind by a test that is killed. Its process id stays the same.
func runLeash(args []string) error {
	if len(args) == 0 {
		return errors.New("which program?")
	}
	program, err := exec.LookPath(args[0])
	if err != nil {
		return err
	}
	runtime.LockOSThread() // the kernel keeps the wish by thread, and the thread that executes keeps it
	if _, _, failed := syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0); failed != 0 {
		return failed
	}
	return syscall.Exec(program, args, os.Environ())
}
