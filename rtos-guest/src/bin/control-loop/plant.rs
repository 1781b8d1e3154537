//! What is controlled, and the controller, in fixed point (Q16.16): there is no floating point in this target.

/// The value the controller steers to: 100.
pub const SETPOINT: i32 = 100 << 16;

fn multiply(a: i32, b: i32) -> i32 {
    ((i64::from(a) * i64::from(b)) >> 16) as i32
}

/// A PID controller with a limited output and an integral that stops at the limit.
pub struct Pid {
    proportional: i32,
    integral: i32,
    derivative: i32,
    sum: i32,
    last: i32,
}

impl Pid {
    const LIMIT: i32 = 1000 << 16;

    /// With these gains.
    pub const fn new(proportional: i32, integral: i32, derivative: i32) -> Self {
        Self { proportional, integral, derivative, sum: 0, last: 0 }
    }

    /// The actuator's value for this measurement.
    pub fn step(&mut self, setpoint: i32, measured: i32) -> i32 {
        let error = setpoint.saturating_sub(measured);
        self.sum = self.sum.saturating_add(multiply(self.integral, error)).clamp(-Self::LIMIT, Self::LIMIT);
        let change = measured.wrapping_sub(self.last);
        self.last = measured;
        multiply(self.proportional, error)
            .saturating_add(self.sum)
            .saturating_sub(multiply(self.derivative, change))
            .clamp(-Self::LIMIT, Self::LIMIT)
    }
}

/// A heater in a room: a first-order lag towards the actuator's value, with a load that comes and goes.
pub struct Plant {
    output: i32,
    age: u32,
}

impl Plant {
    /// Cold.
    pub const fn new() -> Self {
        Self { output: 0, age: 0 }
    }

    /// What the sensor measures.
    pub fn output(&self) -> i32 {
        self.output
    }

    /// One time step with the actuator at `input`.
    pub fn step(&mut self, input: i32) {
        self.age = self.age.wrapping_add(1);
        let load = if self.age & 1 << 16 == 0 { 0 } else { 20 << 16 };
        self.output += (input - self.output - load) >> 6;
    }
}
