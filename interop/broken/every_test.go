//go:build doctor

package broken

const everyPath = true
