//! Where a thing is as time goes on: keyframes flow in, a position, velocity and distance walked flow out.

/// A keyframed path on the floor, straight between keyframes, resting before the first and after the last.
#[derive(Clone, Debug, PartialEq)]
pub struct Track {
    keys: Vec<(f64, f32, f32)>,
}

/// A thing's place at one instant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    /// Metres right of the robot.
    pub x_m: f32,
    /// Metres ahead of the robot.
    pub z_m: f32,
    /// Velocity to the right, metres a second.
    pub vx: f32,
    /// Velocity away from the robot, metres a second.
    pub vz: f32,
    /// Metres walked since the first keyframe.
    pub walked_m: f32,
}

impl Track {
    /// A thing that stays where it is: metres right, metres ahead.
    #[must_use]
    pub fn still(x_m: f32, z_m: f32) -> Self {
        Self { keys: vec![(0.0, x_m, z_m)] }
    }

    /// A path that starts at a time (seconds) and place (metres right, metres ahead).
    #[must_use]
    pub fn from(t: f64, x_m: f32, z_m: f32) -> Self {
        Self { keys: vec![(t, x_m, z_m)] }
    }

    /// Goes on to a place, reached at time `t`; a time before the last keyframe's is moved up to it.
    #[must_use]
    pub fn to(mut self, t: f64, x_m: f32, z_m: f32) -> Self {
        let last = self.keys.last().map_or(t, |k| k.0);
        self.keys.push((t.max(last), x_m, z_m));
        self
    }

    /// Stays at the last place until time `t`.
    #[must_use]
    pub fn wait(self, t: f64) -> Self {
        let (_, x, z) = self.keys.last().copied().unwrap_or((t, 0.0, 1.0));
        self.to(t, x, z)
    }

    /// The place at time `t` in seconds.
    #[must_use]
    pub fn at(&self, t: f64) -> Place {
        let mut walked = 0.0;
        for w in self.keys.windows(2) {
            let ((t0, x0, z0), (t1, x1, z1)) = (w[0], w[1]);
            let (dx, dz) = (x1 - x0, z1 - z0);
            let length = (dx * dx + dz * dz).sqrt();
            if t < t1 {
                let span = (t1 - t0) as f32;
                let f = ((t - t0) as f32 / span).max(0.0);
                let moving = if t >= t0 { 1.0 / span } else { 0.0 };
                return Place {
                    x_m: x0 + dx * f,
                    z_m: z0 + dz * f,
                    vx: dx * moving,
                    vz: dz * moving,
                    walked_m: walked + length * f,
                };
            }
            walked += length;
        }
        let (_, x_m, z_m) = self.keys.last().copied().unwrap_or((0.0, 0.0, 1.0));
        Place { x_m, z_m, vx: 0.0, vz: 0.0, walked_m: walked }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_track_rests_moves_and_rests() {
        let t = Track::from(1.0, -2.0, 3.0).to(3.0, 0.0, 3.0).wait(5.0).to(6.0, 0.0, 1.0);
        assert_eq!((t.at(0.0).x_m, t.at(0.0).vx), (-2.0, 0.0));
        assert_eq!((t.at(2.0).x_m, t.at(2.0).vx, t.at(2.0).walked_m), (-1.0, 1.0, 1.0));
        assert_eq!((t.at(4.0).x_m, t.at(4.0).vx), (0.0, 0.0));
        assert_eq!((t.at(5.5).z_m, t.at(5.5).vz), (2.0, -2.0));
        assert_eq!((t.at(60.0).z_m, t.at(60.0).walked_m), (1.0, 4.0));
    }
}
