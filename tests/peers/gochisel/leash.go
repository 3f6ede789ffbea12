package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// runLeash becomes another program that dies with the process that started it: a peer that knows nothing of standard
// input is then not left behind by a test that is killed. Its process id stays the same.
func runLeash(args []string) error {
	var network string
	flags := flag.NewFlagSet("leash", flag.ExitOnError)
	flags.StringVar(&network, "net", "", "file of a network namespace to run the program in, as `link` names it")
	if err := flags.Parse(args); err != nil {
		return err
	}
	args = flags.Args()
	if len(args) == 0 {
		return errors.New("which program?")
	}
	program, err := exec.LookPath(args[0])
	if err != nil {
		return err
	}
	runtime.LockOSThread() // the kernel keeps wish and namespace by thread, and the thread that executes keeps them
	if network != "" {
		if err := enter(network); err != nil {
			return fmt.Errorf("entering %s: %w", network, err)
		}
	}
	if _, _, failed := syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0); failed != 0 {
		return failed
	}
	return syscall.Exec(program, args, os.Environ())
}

// enter moves the calling thread into a network namespace.
func enter(network string) error {
	namespace, err := unix.Open(network, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(namespace)
	return unix.Setns(namespace, unix.CLONE_NEWNET)
}
